"""A fifth list of networks whose signal is known: plain networks, each with a depth problem or one realistic mistake.

As in oracles/verdicts_blind.py, what a sick one should be found to have, and where, follows from how it was made, and
was written down before any rule had looked at it. The healthy ones are in oracles/canonical_public.py.
"""

from __future__ import annotations

import torch
from torch import nn

from oracles.canonical_mistakes import (
    Between,
    Copying,
    Flow,
    Pooled,
    Skipless,
    Unscaled,
    all_zero,
    autoencoder,
    binary_head,
    by_hand,
    counts,
    dropped,
    equal,
    equal_gates,
    faint_embeddings,
    half_inputs,
    infinite_weight,
    left_padded,
    lenet,
    lowered,
    plain_convolutions,
    prices,
    reconstruct,
    sure_decoder,
    unscaled_sums,
)
from oracles.canonical_public import HEALTHY_CANONICAL, gpt2, vit
from oracles.canonical_structures import Characters, following, vgg
from oracles.further_structures import labelled, smooth_images
from oracles.verdicts import BATCH, WIDTH, changed, classify, plain, regress
from oracles.verdicts_blind import altered, at
from oracles.verdicts_further import calls

__all__ = ["HEALTHY_CANONICAL", "SICK_CANONICAL"]

_DEEP = {"S203", "S201"}
SICK_CANONICAL = {
    # vanishing: by a factor per layer the ends of the way, else the layer
    "thirty sigmoids": (lambda: classify(plain(30, nn.Sigmoid), (WIDTH,)), {"S203"}, {"0"}),
    "thirty convolutions as torch draws them": (
        lambda: labelled(plain_convolutions(), smooth_images()),
        _DEEP,
        {"0", "58"},
    ),
    "a recurrent net that forgets, sixty steps": (lambda: classify(Copying(), (60, 8)), {"S203"}, {"rnn"}),
    "a transformer without skips or norms": (
        lambda: labelled(Skipless(), torch.randn(BATCH, 10, WIDTH)),
        {"S201", "S203", "S207"},
        {"attends.0", "attends.11", "mlps.11.2"},
    ),
    "one convolution of a VGG ten thousand times too small": (
        lambda: altered(vgg(), lambda model: at(model, "8.weight").mul_(1e-4)),
        {"S201"},
        {"8"},
    ),
    "a GPT-2 with embeddings of 2e-7": (
        lambda: faint_embeddings(*gpt2()),
        {"S201"},
        {"transformer.wte", "transformer.wpe", "transformer.drop", "transformer.h.0.ln_1"},
    ),
    "all weights zero": (
        lambda: classify(all_zero(), (WIDTH,)),
        {"S201", "S203", "S208"},
        {f"{layer}{name}" for layer in (0, 2, 4, 6, 8) for name in ("", ".weight")},
    ),
    # exploding
    "twenty layers of gain three": (
        lambda: classify(plain(20, nn.ReLU, 3.0), (WIDTH,)),
        {"S202", "S204"},
        {"0", "38", "39"},
    ),
    "an equation in sixty large steps": (
        lambda: classify(Flow(), (WIDTH,)),
        {"S202", "S204"},
        calls("field.0", 60) | calls("field.1", 60) | calls("field", 60) | {"stem"},
    ),
    "an autoencoder's middle a thousand times too large": (
        lambda: reconstruct(changed(autoencoder(), "4", lambda layer: layer.weight.mul_(1e3))),
        {"S202", "S204"},
        {"4"},
    ),
    "a graph that sums over hundreds": (
        unscaled_sums,
        {"S202", "S204"},
        {"layers.0", "layers.4", "matmul()", "matmul() #4"},
    ),
    # dead
    "a convolution of a VGG behind biases of -10": (
        lambda: altered(vgg(), lambda model: at(model, "6.bias").fill_(-10)),
        {"S205"},
        {"6", "7"},
    ),
    "a regression whose ReLU is dead at the end": (
        lambda: regress(lowered(nn.Sequential(*plain(3, nn.ReLU), nn.ReLU()), "6"), (WIDTH,)),
        {"S201", "S205"},
        {"6", "7"},
    ),
    "a ViT with one feed-forward layer behind biases of -10": (
        lambda: altered(vit(), lambda model: at(model, "vit.layers.2.mlp.fc1.bias").fill_(-10)),
        {"S205"},
        {"vit.layers.2.mlp.fc1", "vit.layers.2.mlp.activation_fn"},
    ),
    # saturated
    "LeNet with tanh on bytes": (
        lambda: labelled(lenet(), 255 * torch.rand(BATCH, 1, 28, 28)),
        {"S206"},
        {"0", "1"},
    ),
    "attention without the root of its length": (
        lambda: labelled(Unscaled(), torch.randn(BATCH, 12, WIDTH)),
        {"S206"},
        {"softmax()"},
    ),
    "a softmax over one output": (binary_head, {"S201", "S203", "S206", "S207"}, {"3", "2"}),
    "an LSTM on prices": (prices, {"S206"}, {"lstm"}),
    "a decoder's sigmoid at its bounds": (sure_decoder, {"S206"}, {"2", "3"}),
    "ten tanh of weights of deviation one": (
        lambda: classify(plain(10, nn.Tanh, 8.0), (WIDTH,)),
        {"S206", "S204"},
        {str(layer) for layer in range(20)},
    ),
    # collapsed
    "a group norm of one number a group": (
        lambda: labelled(Pooled(), smooth_images()),
        {"S201", "S203", "S207"},
        {"norm"},
    ),
    "a dropout of one": (lambda: classify(dropped(), (WIDTH,)), {"S201", "S203", "S207"}, {"4", "5"}),
    "an LSTM over embeddings of 1e-6": (
        lambda: altered(following(Characters(nn.LSTM)), lambda model: model.embed.weight.mul_(1e-6)),
        {"S201", "S203", "S207"},
        {"embed"},
    ),
    # cloned
    "a convolution of equal weights": (
        lambda: labelled(equal(vgg()[0], "6", 0.05), smooth_images(size=32)),
        {"S208"},
        {"6.weight"},
    ),
    "a hidden layer of equal weights": (
        lambda: classify(equal(plain(3, nn.Tanh), "2", 0.1), (WIDTH,)),
        {"S208"},
        {"2.weight"},
    ),
    "a recurrent layer of equal weights": (
        equal_gates,
        {"S208"},
        {f"read.{kind}_{part}_l0" for kind in ("weight", "bias") for part in ("ih", "hh")},
    ),
    # not finite, forwards
    "the logarithm of a softmax that underflows": (
        lambda: labelled(Between(lambda x: torch.log(torch.softmax(x, 1)), 1e3), torch.randn(BATCH, WIDTH)),
        {"S211"},
        {"log()"},
    ),
    "a norm by hand of a constant": (
        lambda: labelled(Between(by_hand), torch.randn(BATCH, WIDTH)),
        {"S211"},
        {"div()"},
    ),
    "padding at the left under a causal mask": (left_padded, {"S211"}, {"softmax()"}),
    "bytes in half precision": (half_inputs, {"S211"}, {"2"}),
    "rates of large features": (counts, {"S211"}, {"3", "3.exp()"}),
    "one infinite weight": (infinite_weight, {"S211"}, {"6", "7", "6.weight"}),
    # not finite, backwards
    "the root of a ReLU, backwards": (
        lambda: labelled(Between(lambda x: torch.relu(x) ** 0.5), torch.randn(BATCH, WIDTH)),
        {"S211"},
        {"pow()"},
    ),
}

"""Draw σ(x) and σ′(x) as an SVG: ``python docs/draw_sigmoid.py`` writes ``docs/sigmoid.svg``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradvitals.maths.activations import activation

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 20, 48
REACH = 8.0
ABOUT = (
    "The sigmoid rises from 0 to 1 and is 0.5 at 0. Its slope is a hill of height 0.25 at x = 0 that falls to almost "
    "nothing beyond plus and minus 5."
)
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #333 }
  .axis { stroke: #666; stroke-width: 1; fill: none }
  .grid { stroke: #999; stroke-width: 0.5; stroke-dasharray: 3 4 }
  .value { stroke: #1763b6; stroke-width: 2.5; fill: none }
  .slope { stroke: #b8410f; stroke-width: 2.5; fill: none; stroke-dasharray: 8 4 }
  text.value { stroke: none; fill: #1763b6 }
  text.slope { stroke: none; fill: #b8410f }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .axis { stroke: #aaa } .grid { stroke: #777 }
    .value { stroke: #6cb0ff } text.value { fill: #6cb0ff }
    .slope { stroke: #ff9a66 } text.slope { fill: #ff9a66 }
  }
"""


def across(x: float) -> float:
    return LEFT + (x + REACH) / (2 * REACH) * (WIDTH - LEFT - RIGHT)


def down(y: float) -> float:
    return HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def line(values: np.ndarray, x: np.ndarray, name: str) -> str:
    points = " ".join(f"{across(a):.1f},{down(b):.1f}" for a, b in zip(x, values, strict=True))
    return f'<polyline class="{name}" points="{points}"/>'


def draw() -> str:
    sigmoid = activation("sigmoid")
    x = np.linspace(-REACH, REACH, 161)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">',
        '<title id="title">The sigmoid and its slope</title>',
        f'<desc id="about">{ABOUT}</desc>',
        f"<style>{STYLE}</style>",
    ]
    parts += [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>'
        for y in (0.25, 0.5, 0.75, 1.0)
    ]
    parts += [
        f'<text x="{LEFT - 8}" y="{down(y) + 5:.1f}" text-anchor="end">{y:g}</text>'
        for y in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for tick in range(-8, 9, 2):
        label = f"−{-tick}" if tick < 0 else str(tick)
        parts.append(f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    parts += [
        f'<path class="axis" d="M{LEFT},{TOP} V{HEIGHT - BOTTOM} H{WIDTH - RIGHT}"/>',
        line(sigmoid.value(x), x, "value"),
        line(sigmoid.slope(x), x, "slope"),
        f'<text class="value" x="{across(2.6):.1f}" y="{down(0.88):.1f}">σ(x)</text>',
        f'<text class="slope" x="{across(1.4):.1f}" y="{down(0.2):.1f}">σ′(x), at most 0.25</text>',
        f'<text x="{across(0):.1f}" y="{HEIGHT - 8}" text-anchor="middle">x, the input of the activation</text>',
        f'<text transform="translate(14 {down(0.5):.1f}) rotate(-90)" text-anchor="middle">value</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    target = Path(__file__).with_name("sigmoid.svg")
    target.write_text(draw(), encoding="utf-8")
    print(target)

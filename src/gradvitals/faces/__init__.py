"""Where people meet the tool: the command line and the demo."""

"""`sn-graph completion`: what a shell reads to complete commands, options and their words."""

from typing import Annotated

from sn_graph.choices import ShellChoice
from sn_graph.cli.app import command
from sn_graph.cli.console import Settings, print_text
from sn_graph.cli.declare import Argument
from sn_graph.errors import UsageError


@command
def completion(
    shell: Annotated[ShellChoice, Argument("SHELL", "bash, zsh or fish.")],
    *,
    settings: Settings,
) -> None:
    """Print what a shell reads to complete commands, options and their words.

    \b
    eval "$(sn-graph completion bash)"                                        in ~/.bashrc
    eval "$(sn-graph completion zsh)"                                         in ~/.zshrc
    sn-graph completion fish > ~/.config/fish/completions/sn-graph.fish
    """
    from click.shell_completion import get_completion_class

    from sn_graph.cli.app import app

    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"there is no completion for {shell}", do="choose bash, zsh or fish")
    script = kind(app, {}, "sn-graph", "_SN_GRAPH_COMPLETE").source().rstrip()
    settings.tell(shell=shell, script=script)
    if not settings.json:
        print_text(script)

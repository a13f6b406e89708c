"""`sfumato completion SHELL`: a script that completes commands, options, recipes, runs and, for train, settings.

The options are read from the parsers; the settings from the experiment's own fields, which static generators cannot
see.
"""

import argparse
from collections.abc import Mapping

from sfumato.cli.arguments import Parser, Settings
from sfumato.cli.data import ACTIONS
from sfumato.cli.figures import KINDS
from sfumato.cli.output import say
from sfumato.errors import UsageError
from sfumato.experiment.catalog import recipe_names
from sfumato.experiment.reproduce import SOURCES

__all__ = ["SHELLS", "arguments", "run"]

_BASH = """\
# sfumato completion bash > ~/.local/share/bash-completion/completions/sfumato
_sfumato() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands} --help --version"
  elif [ "$COMP_CWORD" -eq 2 ] && [[ $word != -* ]]; then
    case ${{COMP_WORDS[1]}} in
      train|sweep|doctor) words="{recipes}" ;;
      {runs_of_bash})
        words="$(cd runs 2>/dev/null && ls -d */ 2>/dev/null | tr -d /)" ;;
      completion) words="{shells}" ;;
      reproduce) words="{sources}" ;;
      data) words="{actions}" ;;
      figures) words="{figures}" ;;
    esac
  else
    case ${{COMP_WORDS[1]}} in
{options}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o filenames -F _sfumato sfumato
"""
_ZSH = """\
#compdef sfumato
# sfumato completion zsh > ~/.zfunc/_sfumato     (with fpath+=~/.zfunc before compinit)
autoload -U +X bashcompinit && bashcompinit
{bash}"""
_FISH = """\
# sfumato completion fish > ~/.config/fish/completions/sfumato.fish
complete -c sfumato -n __fish_use_subcommand -f -a "{commands}"
complete -c sfumato -n "__fish_seen_subcommand_from train sweep doctor" -a "{recipes}"
complete -c sfumato -n "__fish_seen_subcommand_from {runs_of_fish}" -a "(ls runs 2>/dev/null)"
complete -c sfumato -n "__fish_seen_subcommand_from completion" -f -a "{shells}"
complete -c sfumato -n "__fish_seen_subcommand_from reproduce" -a "{sources}"
complete -c sfumato -n "__fish_seen_subcommand_from data" -a "{actions}"
complete -c sfumato -n "__fish_seen_subcommand_from figures" -a "{figures}"
{options}
"""
SHELLS = ("bash", "zsh", "fish")
_OF_RUNS = ("resume", "sample", "export", "evaluate", "compare", "effects", "report", "label", "note", "track")


def arguments(parser: Parser) -> None:
    """Declare the shell."""
    parser.add_argument("shell", metavar="|".join(SHELLS), help="the shell to complete in")


def run(args: argparse.Namespace, settings: Settings) -> Mapping[str, object]:
    """Print the script; returns it."""
    if args.shell not in SHELLS:
        raise UsageError(f"there is no completion for {args.shell!r}", expected="bash, zsh or fish", fix="bash")
    text = _script(args.shell)
    say(text.rstrip("\n"))
    return {"shell": args.shell, "script": text}


def _script(shell: str) -> str:
    options = _options()
    shared = {
        "commands": " ".join(options),
        "recipes": " ".join(recipe_names()),
        "shells": " ".join(SHELLS),
        "actions": " ".join(ACTIONS),
        "sources": " ".join(SOURCES),
        "figures": " ".join(KINDS),
        "runs_of_bash": "|".join(_OF_RUNS),
        "runs_of_fish": " ".join(_OF_RUNS),
    }
    if shell == "fish":
        lines = [
            f'complete -c sfumato -n "__fish_seen_subcommand_from {name}" -l {option.removeprefix("--")}'
            for name, found in options.items()
            for option in found
        ]
        return _FISH.format(**shared, options="\n".join(lines))
    cases = "\n".join(f'      {name}) words="{" ".join(found)}" ;;' for name, found in options.items())
    bash = _BASH.format(**shared, options=cases)
    return bash if shell == "bash" else _ZSH.format(bash=bash)


def _options() -> dict[str, list[str]]:
    """The long options of every command, with the settings where they are taken."""
    from sfumato.cli.main import COMMANDS, build_parser
    from sfumato.experiment.config import Experiment, SamplingConfig
    from sfumato.experiment.inspection import Examined
    from sfumato.experiment.kinds import paths

    keys: dict[str, type] = {
        **dict.fromkeys(("train", "sweep", "resume", "reproduce", "doctor"), Experiment),
        **dict.fromkeys(("sample", "report"), SamplingConfig),
        "data": Examined,
    }
    found: dict[str, list[str]] = {}
    for name in COMMANDS:
        declared = [option for option in build_parser(name).declared if option.startswith("--")]
        settings = [f"--{key}" for key in paths(keys[name])] if name in keys else []
        found[name] = list(dict.fromkeys([*declared, *settings]))
    return found

"""The command line `gem-act`: runs a command and turns every error that a user can cause into one line."""

import os
import sys
from collections.abc import Sequence

from . import __version__
from .errors import GemError

EXTRAS = {
    "flint": "certify",
    "ray": "ray",
    "sympy": "certify",
    "tensorboard": "monitor",
    "tokenizers": "huggingface",
    "torch": "torch",
    "transformers": "huggingface",
}
"""The extra that brings a package which a command needs, unless it is `lab`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `gem-act`.

    Args:
        arguments: The words after the command's name; None for those of the process.
    Returns: Exit status: 0, or 2 for a user's error, 3 if a run of a comparison failed, 130 for an interruption.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if "--version" in words:
            print(f"gem-act {__version__}", flush=True)
            return 0
        from .commands import run_command

        status = run_command(words)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "gem_activations"):
            raise
        package = (error.name or "").partition(".")[0]
        extra = "certify" if words[:1] == ["certify"] else EXTRAS.get(package, "lab")
        return _fail(f"{error.name} is not installed; run: pip install 'gem-activations[{extra}]'")
    except BrokenPipeError:
        # Whoever read the output has closed it, as `head` does. What is still buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (GemError, OSError) as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt as interruption:
        return _fail("; ".join(["interrupted", *map(str, interruption.args)]), status=130)
    return status


def _fail(message: str, status: int = 2) -> int:
    print(f"gem-act: {message}", file=sys.stderr)
    return status

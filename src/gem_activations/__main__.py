"""`python -m gem_activations` is `gem-act`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

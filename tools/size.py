"""Print how large the package is: lines by room, lengths of files and functions, private functions with one use.

python tools/size.py                        # src/gem_activations
python tools/size.py path/to/another/package
"""

import ast
import statistics
import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src/gem_activations"
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def measure(package: Path) -> dict[str, int | float]:
    """Return the figures of the table by name; a room is a file or folder directly below the package."""
    texts = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    rooms = Counter({path.relative_to(package).parts[0]: 0 for path in texts})
    for path, text in texts.items():
        rooms[path.relative_to(package).parts[0]] += text.count("\n")
    files = [text.count("\n") for text in texts.values()]
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, FUNCTION)]
    lengths = [length(function) for function in functions]
    of_modules = sum(isinstance(node, FUNCTION) for tree in trees.values() for node in tree.body)
    uses = private_uses(list(trees.values()))
    return {
        **{f"lines in {room}": lines for room, lines in rooms.most_common()},
        "lines of source": sum(files),
        "files": len(files),
        "lines of a file, median": statistics.median(files),
        "lines of a file, 90th percentile": percentile(files, 0.9),
        "functions": len(functions),
        "lines of a function, median": statistics.median(lengths),
        "lines of a function, 90th percentile": percentile(lengths, 0.9),
        "functions at the level of a module": of_modules,
        "of them private with one use, %": round(100 * uses.count(1) / of_modules, 1),
        "one use among the private ones, %": round(100 * uses.count(1) / max(len(uses), 1), 1),
    }


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines from `def` to the end, less those of the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


def private_uses(trees: list[ast.Module]) -> list[int]:
    """Return for each private function of a module how often it is named outside itself.

    A function that only a decorator registers is named nowhere: it has no use.
    """
    named = [Counter(names(tree)) for tree in trees]
    imported = [
        {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        for tree in trees
    ]
    uses = []
    for own, tree in enumerate(trees):
        for node in tree.body:
            if isinstance(node, FUNCTION) and node.name.startswith("_") and not node.name.startswith("__"):
                elsewhere = sum(
                    counts[node.name] for at, counts in enumerate(named) if at == own or node.name in imported[at]
                )
                uses.append(elsewhere - Counter(names(node))[node.name])
    return uses


def names(tree: ast.AST) -> list[str]:
    return [
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
    ]


def percentile(lengths: list[int], share: float) -> int:
    return sorted(lengths)[min(len(lengths) - 1, int(share * len(lengths)))]


def main() -> None:
    for name, figure in measure(Path(sys.argv[1]) if sys.argv[1:] else PACKAGE).items():
        print(f"{name:40} {figure:>8,}")


if __name__ == "__main__":
    main()

"""Print how large the package is: lines by room, lengths of files and functions, private functions with one use.

python tools/size.py                        # src/gem_activations
python tools/size.py path/to/another/package
python tools/size.py --one-use              # The private functions with one use, file by file
"""

import argparse
import ast
import statistics
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src/gem_activations"
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def measure(package: Path) -> dict[str, int | float]:
    """Return the figures of the table by name; a room is a file or folder directly below the package."""
    texts = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
    trees = parse(package)
    rooms = Counter({path.relative_to(package).parts[0]: 0 for path in texts})
    for path, text in texts.items():
        rooms[path.relative_to(package).parts[0]] += text.count("\n")
    files = [text.count("\n") for text in texts.values()]
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, FUNCTION)]
    lengths = [length(function) for function in functions]
    of_modules = sum(isinstance(node, FUNCTION) for tree in trees.values() for node in tree.body)
    uses = [count for _, _, count in private_uses(trees)]
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


def private_uses(trees: dict[Path, ast.Module]) -> list[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Return (file, function, how often it is named outside itself) of each private function of a module.

    A function that only a decorator registers is named nowhere: it has no use.
    """
    named = {path: Counter(names(tree)) for path, tree in trees.items()}
    imported = {
        path: {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        for path, tree in trees.items()
    }
    uses = []
    for own, tree in trees.items():
        for node in tree.body:
            if isinstance(node, FUNCTION) and node.name.startswith("_") and not node.name.startswith("__"):
                elsewhere = sum(
                    counts[node.name] for at, counts in named.items() if at == own or node.name in imported[at]
                )
                uses.append((own, node, elsewhere - Counter(names(node))[node.name]))
    return uses


def parse(package: Path) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}


def names(tree: ast.AST) -> list[str]:
    return [
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
    ]


def percentile(lengths: list[int], share: float) -> int:
    return sorted(lengths)[min(len(lengths) - 1, int(share * len(lengths)))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Print how large a package is.")
    parser.add_argument("package", nargs="?", type=Path, default=PACKAGE, help="folder of the package")
    parser.add_argument("--one-use", action="store_true", help="list the private functions with one use by file")
    asked = parser.parse_args()
    if not asked.one_use:
        for name, figure in measure(asked.package).items():
            print(f"{name:40} {figure:>8,}")
        return
    once = [(path, node) for path, node, uses in private_uses(parse(asked.package)) if uses == 1]
    for path, count in Counter(path for path, _ in once).most_common():
        print(f"{path.relative_to(asked.package)}: {count}")
        for node in (node for at, node in once if at == path):
            print(f"    {node.name} ({length(node)} lines, from line {node.lineno})")


if __name__ == "__main__":
    main()

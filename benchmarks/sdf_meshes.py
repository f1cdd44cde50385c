"""Learn distance fields of real surfaces by examples/sdf.py, each arm at the setting that the example's study chose.

Arms that this study shows far behind on all of its shapes (GELU, SiLU, SIREN, the wide members) are left out.

    OMP_NUM_THREADS=1 python benchmarks/sdf_meshes.py elephant.off anchor.off

The meshes are triangles without a border, in OFF files, such as those in the data of CGAL (Debian: libcgal-demo). They
are scaled into the box of side 2. Distances are to 400,000 points of the surface, signs by counting the triangles that
a ray meets. Writes benchmarks/results/examples/meshes/test.csv and prints the tables of docs/examples/meshes.md; runs
at the chosen settings that stand there are kept.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import examples_study as study
import torch
from scipy.spatial import KDTree
from torch import Tensor

DENSE = 400_000


def read_off(path: Path) -> Tensor:
    """Return the triangles of an OFF file, (faces, 3 corners, 3), scaled so that the longest side is 1.6 about 0.

    Raises: ValueError: the file has other faces than triangles, or a border.
    """
    words = [word for line in path.read_text().splitlines() for word in line.split("#")[0].split()]
    count, faces = int(words[1]), int(words[2])
    corners = torch.tensor([float(word) for word in words[4 : 4 + 3 * count]]).view(-1, 3)
    rows = torch.tensor([int(word) for word in words[4 + 3 * count :][: 4 * faces]]).view(-1, 4)
    edges = {(int(a), int(b)) for row in rows[:, 1:] for a, b in zip(row, row.roll(-1), strict=True)}
    if (rows[:, 0] != 3).any() or any((b, a) not in edges for a, b in edges):
        raise ValueError(f"{path} has other faces than triangles, or a border; take a closed mesh of triangles")
    low, high = corners.amin(0), corners.amax(0)
    return ((corners - (low + high) / 2) * (1.6 / (high - low).max()))[rows[:, 1:]]


def is_inside(points: Tensor, triangles: Tensor) -> Tensor:
    """Return whether each point is inside: a ray along the first axis meets an odd number of triangles."""
    order = points[:, 1].argsort()
    inside = torch.empty(len(points), dtype=torch.bool)
    for part in order.split(200):  # Near each other in the second axis, so that few triangles can be met.
        low, high = points[part[0], 1], points[part[-1], 1]
        near = triangles[(triangles[..., 1].amin(1) <= high) & (triangles[..., 1].amax(1) >= low)]
        offset = near[..., 1:] - points[part, None, None, 1:]
        following = offset.roll(-1, 2)
        area = offset[..., 0] * following[..., 1] - offset[..., 1] * following[..., 0]  # Of the edge, with the point.
        met = (area > 0).all(-1) | (area < 0).all(-1)
        weights = area.roll(-1, 2)  # A corner's is that of the edge across.
        where = (weights * near[..., 0]).sum(-1) / weights.sum(-1)
        inside[part] = (met & (where > points[part, :1])).sum(1) % 2 == 1
    return inside


def sample_triangles(triangles: Tensor) -> Any:
    """Return a sampler of so many points of a surface, evenly, and their normals."""
    normal = torch.linalg.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area, normal = normal.norm(dim=1), torch.nn.functional.normalize(normal)

    def sample(count: int) -> tuple[Tensor, Tensor]:
        face = torch.multinomial(area, count, replacement=True)
        split = torch.rand(count, 3).log().neg()  # Exponential variables, divided by their sum, are uniform.
        split = split / split.sum(1, keepdim=True)
        return (split[..., None] * triangles[face]).sum(1), normal[face]

    return sample


def make_shape(triangles: Tensor) -> Any:
    """Return the signed distance to a surface and a sampler of it, as examples/shapes.py has them."""
    sample = sample_triangles(triangles)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tree = KDTree(sample(DENSE)[0].numpy(), leafsize=100)

    def distance(points: Tensor) -> Tensor:
        nearest = torch.from_numpy(tree.query(points.numpy())[0]).float()
        return torch.where(is_inside(points, triangles), -nearest, nearest)

    return distance, sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path, nargs="*", help="OFF files; none to judge the rows that are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [
        {**row, "learning_rate": float(row["learning_rate"])}
        for row in study.read("sdf", "chosen")
        if row["arm"] in study.STUDIES["meshes"][0]
    ]
    shapes = {path.stem: make_shape(read_off(path)) for path in arguments.meshes}

    def run_all(jobs: list[study.Job]) -> Iterator[study.Row | None]:
        for _, arm, activation, rate, task, seed, end in jobs:
            shape = {task["shape"]: lambda name=task["shape"]: shapes[name]}
            if task["shape"] in shapes:
                job = ("sdf", arm, activation, rate, task, seed, end)
                found = study.run_one(job, lambda example, shape=shape: example.SHAPES.update(shape))
                yield found and {**found, "study": "meshes"}

    if shapes:
        study.run_tests("meshes", chosen, math.inf, run_all)
    print("\n".join(study.judge(["meshes"])))


if __name__ == "__main__":
    main()

"""Where the data sets come from: addresses, names, sizes and published checksums. Nothing here opens a file.

Every archive and every file that is downloaded by itself has a checksum that its publisher, or a library that has
checked it for years, states. A file inside an archive without a published one has none here: it is checked as
part of its archive.
"""

from dataclasses import dataclass

from ...errors import SettingError
from ...grammar import suggest


@dataclass(frozen=True)
class Item:
    """One file: of a data set, or an archive.

    Attributes:
        name: Its name in the data set's folder.
        digest: Checksum as "md5:..." or "sha256:..."; None if none is published.
        address: Its name at the web addresses; the same name if empty.
    """

    name: str
    digest: str | None
    address: str = ""


@dataclass(frozen=True)
class Source:
    """One data set and where it is found.

    Attributes:
        title: Name for messages.
        folders: Where in the data folder the files may lie; a download goes to the first.
        urls: Web addresses of the folder that holds the files or the archive, tried in this order.
        items: The files that the readers need.
        archive: What is downloaded instead of the single files; it holds them in a folder called `folders[0]`.
        licence: What the publisher says of its use.
    """

    title: str
    folders: tuple[str, ...]
    urls: tuple[str, ...]
    items: tuple[Item, ...]
    archive: Item | None = None
    licence: str = "not stated by the publisher"


def find_source(name: str) -> Source:
    """Return the source of a data set by its name.

    Raises: SettingError: no data set has that name; the nearest are offered.
    Example:
        >>> find_source("cifar10").archive.name
        'cifar-10-binary.tar.gz'
    """
    if name not in SOURCES:
        hint = suggest(name, SOURCES, "the data sets are")
        raise SettingError(f"no data set to download is called {name!r}; {hint}")
    return SOURCES[name]


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx(*md5: str) -> tuple[Item, ...]:
    return tuple(Item(f"{name}.gz", f"md5:{digest}") for name, digest in zip(_IDX, md5, strict=True))


SOURCES: dict[str, Source] = {
    "mnist": Source(
        title="MNIST",
        folders=("MNIST/raw", "mnist", "."),
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        items=_idx(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion-mnist": Source(
        title="Fashion-MNIST",
        folders=("FashionMNIST/raw", "fashion-mnist", "fashion", "."),
        urls=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        items=_idx(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        licence="MIT",
    ),
    "cifar10": Source(
        title="CIFAR-10, binary version",
        folders=("cifar-10-batches-bin", "cifar10", "."),
        urls=("https://www.cs.toronto.edu/~kriz/",),
        archive=Item("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),
        items=(
            Item("data_batch_1.bin", "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            Item("data_batch_2.bin", "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            Item("data_batch_3.bin", "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            Item("data_batch_4.bin", "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            Item("data_batch_5.bin", "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            Item("test_batch.bin", "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        ),
    ),
    "cifar100": Source(
        title="CIFAR-100, binary version",
        folders=("cifar-100-binary", "cifar100", "."),
        urls=("https://www.cs.toronto.edu/~kriz/",),
        archive=Item("cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8"),
        items=(
            Item("train.bin", "sha256:f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
            Item("test.bin", "sha256:d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
        ),
    ),
    "stl10": Source(
        title="STL-10, binary version (the labelled images)",
        folders=("stl10_binary", "stl10", "."),
        urls=("http://ai.stanford.edu/~acoates/stl10/", "https://cs.stanford.edu/~acoates/stl10/"),
        archive=Item("stl10_binary.tar.gz", "md5:91f7769df0f17e558f3565bffb0c7dfb"),
        items=(
            Item("train_X.bin", "md5:918c2871b30a85fa023e0c44e0bee87f"),
            Item("train_y.bin", "md5:5a34089d4802c674881badbb80307741"),
            Item("test_X.bin", "md5:7f263ba9f9e0b06b93213547f721ac82"),
            Item("test_y.bin", "md5:36f9794fa4beb8a2c72628de14fa638e"),
            Item("fold_indices.txt", None),
        ),
    ),
    "tinyshakespeare": Source(
        title="tiny Shakespeare",
        folders=("text", "tinyshakespeare", "."),
        urls=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
        items=(
            Item(
                "tinyshakespeare.txt",
                "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                address="input.txt",
            ),
        ),
        licence="public domain",
    ),
    "wikitext-2": Source(
        title="WikiText-2, tokens",
        folders=("wikitext-2", "text", "."),
        # The first is the author's own; the second, the paper's, was seen dead.
        urls=("https://wikitext.smerity.com/", "https://s3.amazonaws.com/research.metamind.io/wikitext/"),
        archive=Item("wikitext-2-v1.zip", "md5:542ccefacc6c27f945fb54453812b3cd"),
        items=(
            Item("wiki.train.tokens", None),
            Item("wiki.valid.tokens", "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
            Item("wiki.test.tokens", "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
        ),
        licence="CC BY-SA 3.0",
    ),
}

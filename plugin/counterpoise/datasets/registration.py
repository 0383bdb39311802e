"""Custom datasets in Detectron2's catalogues: registered at once, read on first use."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from counterpoise.datasets.class_names import check_class_names
from counterpoise.datasets.loading import Source
from counterpoise.datasets.packed import PackedRecords
from counterpoise.datasets.report import Report
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.errors import UserError, did_you_mean

BAD_RECORDS = ("skip", "refuse")


def dataset_names(specs: Mapping[str, DatasetSpec]) -> list[str]:
    """Names that may stand in ``DATASETS.TRAIN`` and ``DATASETS.TEST``."""
    return [part for spec in specs.values() for part in spec.parts]


def missing_file(dataset_name: str) -> str | None:
    """The file of a dataset that Detectron2 knows by name, where it is not here; else None."""
    metadata = MetadataCatalog.get(dataset_name)
    files = filter(None, (metadata.get(key) for key in ("json_file", "dirname", "gt_dir")))
    return next((file for file in files if not PathManager.exists(file)), None)


def register_datasets(
    specs: Mapping[str, DatasetSpec], *, classes: Sequence[str] | None, bad_records: str = "skip"
) -> None:
    """Register every dataset in Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``.

    Nothing is read until a dataset is asked for. It is then read and checked once per process,
    and a report of it is logged. Registering a name again with other settings replaces the
    earlier entry; with the same settings it does nothing.

    Args:
        specs: from :func:`counterpoise.datasets.parse_specs`.
        classes: class list of all datasets; None lets each use its own.
        bad_records: ``"skip"`` leaves invalid annotations out, ``"refuse"`` raises UserError.

    Raises:
        UserError: a bad argument, or a name that other code has registered.
    """
    if bad_records not in BAD_RECORDS:
        hint = did_you_mean(bad_records, BAD_RECORDS)
        raise UserError(f"DATASETS.BAD_RECORDS is {bad_records!r}; {hint}")
    names = None if classes is None else check_class_names(list(classes), "the class list")
    if names == ():
        raise UserError("the class list is empty: name at least one class")
    for name in dataset_names(specs):
        if name in DatasetCatalog and not isinstance(DatasetCatalog[name], CustomLoader):
            raise UserError(
                f"the dataset name '{name}' is already taken in Detectron2's catalogue: rename it "
                "in DATASETS.CUSTOM"
            )
    for spec in specs.values():
        _register(Source(spec, names, bad_records))


def dataset_report(name: str) -> Report:
    """Return the report on a custom dataset, which is read for it if it has not been yet.

    Args:
        name: a registered name, or that of a whole source with a holdout. The report of a held
            out part has counts of its own and the invalid annotations of the whole.

    Raises:
        UserError: there is no such custom dataset, or it cannot be read.
    """
    ours = _ours()
    for loader in ours:
        if name in (loader.name, loader.source.spec.name):
            return loader.source.parts[name].report
    hint = did_you_mean(name, [loader.name for loader in ours]) if ours else "none is registered"
    raise UserError(f"there is no custom dataset named '{name}'; {hint}")


class CustomLoader:
    """The function that ``DatasetCatalog`` calls for a custom dataset."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.source = source

    def __call__(self) -> list[dict[str, Any]]:
        """Return the records as Detectron2 expects them."""
        return list(self.records())

    def records(self) -> PackedRecords:
        """Return the records in their compact form; the dataset is read if it has not been yet."""
        records = self.source.parts[self.name].dicts
        self.set_metadata()
        return records

    def set_metadata(self) -> None:
        """Tell ``MetadataCatalog`` the classes.

        Raises:
            UserError: it has others under this name.
        """
        metadata = MetadataCatalog.get(self.name)
        values = {
            "thing_classes": list(self.source.classes),
            "evaluator_type": "counterpoise",
            "counterpoise_format": self.source.spec.format,
        }
        for key, value in values.items():
            if metadata.get(key, value) != value:
                raise UserError(
                    f"the metadata of dataset '{self.name}' already has {key} "
                    f"{metadata.get(key)!r}, not {value!r}: rename the dataset in DATASETS.CUSTOM"
                )
        metadata.set(**values)

    def unregister(self) -> None:
        """Remove the dataset from Detectron2's catalogues."""
        DatasetCatalog.remove(self.name)
        for key in ("thing_classes", "evaluator_type", "counterpoise_format"):
            vars(MetadataCatalog.get(self.name)).pop(key, None)


def _register(source: Source) -> None:
    names = source.spec.parts
    # An earlier holdout of this source leaves more names than its new spec has.
    earlier = [
        loader
        for loader in _ours()
        if loader.name in names or loader.source.spec.name == source.spec.name
    ]
    if {loader.name for loader in earlier} == set(names) and all(
        loader.source.settings == source.settings for loader in earlier
    ):
        return
    for loader in earlier:
        loader.unregister()
    for name in names:
        loader = CustomLoader(name, source)
        if source.classes is not None:
            loader.set_metadata()
        DatasetCatalog.register(name, loader)


def _ours() -> list[CustomLoader]:
    return [loader for loader in DatasetCatalog.values() if isinstance(loader, CustomLoader)]

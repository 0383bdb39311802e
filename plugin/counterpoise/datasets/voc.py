"""Pascal VOC: one XML per image, in any folder layout."""

import re
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, ParseError

from defusedxml import EntitiesForbidden
from defusedxml.ElementTree import fromstring as defused_fromstring

from counterpoise.datasets.files import (
    MAX_ANNOTATION_BYTES,
    Boundary,
    ImageIndex,
    read_text,
    require_folder,
)
from counterpoise.datasets.invalid_annotations import InvalidKind
from counterpoise.datasets.records import Box, Coordinates, ImageRecord, RecordSet
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.utils.files import check_is_file
from counterpoise.utils.walking import find_files

# An XML declaration that names no encoding, or one that has ASCII in the places of ASCII.
_ENCODING = re.compile(
    rb"""(\xef\xbb\xbf)?<\?xml\s+version\s*=\s*["'][\d.]+["']"""
    rb"""(\s+encoding\s*=\s*["'](utf-8|us-ascii|iso-8859-\d+|windows-125\d)["'])?"""
    rb"""(\s+standalone\s*=\s*["'](yes|no)["'])?\s*\?>""",
    re.IGNORECASE,
)

#: Number in the file, class name, box, and whether it is difficult (0 or 1).
_Object = tuple[int, str, Box, int]


def read_voc(spec: DatasetSpec) -> RecordSet:
    """Parse the XMLs of the split.

    An image is the file under IMAGES that carries the XML's stem or, if there is none, the one
    that ``<filename>`` names.

    Raises:
        UserError: a folder or the split file is missing or unreadable.
    """
    key = f"DATASETS.CUSTOM.{spec.name}"
    images = ImageIndex(require_folder(spec.images, f"{key}.IMAGES"))
    root = require_folder(spec.annotations, f"{key}.ANNOTATIONS")
    source = str(root) if spec.split_file is None else f"{root}, split {spec.split_file}"
    records = RecordSet(source, Coordinates.PIXELS_FROM_1, place=_place)
    boundary = Boundary(() if spec.outside_files else (images.root, root))
    renamed = 0
    for path in _split_xmls(spec, root, images, records):
        relative = path.relative_to(root)
        where = relative.as_posix()
        if outside := boundary.why_outside(str(path)):
            records.reject(InvalidKind.OUTSIDE_FILE, where, outside)
            continue
        try:
            tree = _parse_xml(path)
            size, found_objects = _content(tree, where, records)
        except ValueError as error:
            records.reject(InvalidKind.UNREADABLE_FILE, where, error)
            continue
        file_name = _file_name(tree)
        found = _find_image(images, path.stem, file_name, relative.parent)
        if len(found) > 1:
            fitting = ", ".join(p.relative_to(images.root).as_posix() for p in found)
            records.reject(
                InvalidKind.AMBIGUOUS_IMAGE,
                where,
                f"it could be {fitting}",
                len(found_objects),
            )
            continue
        image = found[0] if found else images.root / (file_name or path.stem)
        renamed += bool(images.named(file_name)) and image.name != file_name
        for number, name, box, difficult in found_objects:
            records.objects.add(len(records.images), name, box, number)
            records.objects.difficult.append(difficult)
        outside = boundary.why_outside(str(image))
        image_id = relative.with_suffix("").as_posix()
        records.images.append(ImageRecord(str(image), image_id, where, size, outside=outside))
    if renamed:
        records.notes.append(
            "XML files whose <filename> names another existing image than the one of their own "
            f"name, which was taken: {renamed}"
        )
    unused = len(images) - len({record.path for record in records.images})
    if unused > 0 and spec.split_file is None:
        records.notes.append(f"images under IMAGES without a usable XML, not in the set: {unused}")
    records.class_names = tuple(sorted(records.objects.names))
    return records


def _split_xmls(
    spec: DatasetSpec, root: Path, images: ImageIndex, records: RecordSet
) -> Iterator[Path]:
    xmls = find_files(root, {".xml"}.__contains__)
    if spec.split_file is None:
        yield from xmls
        return
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in xmls:
        by_stem[path.stem].append(path)
    text = read_text(spec.split_file, f"DATASETS.CUSTOM.{spec.name}.SPLIT_FILE")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        # The whole line comes first because a stem may hold spaces; else the rest of the line is
        # a second column.
        names = [_without_suffix(name, images) for name in (line.strip(), line.split()[0])]
        listed = next((name for name in names if name.name in by_stem), None)
        if listed is not None:
            found = by_stem[listed.name]
            # Of XMLs of one name in several folders, the one that the line names by its folder.
            yield from [p for p in found if _ends_with(listed, p.relative_to(root))] or found
        else:
            stem = names[0].name
            where = f"{spec.split_file.name}:{number}"
            reason = f"{stem!r} is listed, but there is no '{stem}.xml' under {root}"
            records.reject(InvalidKind.NO_ANNOTATION_FILE, where, reason)


def _parse_xml(path: Path) -> Element:
    """Parse one XML file without expanding entities; ValueError says why it cannot be."""
    try:
        check_is_file(path, MAX_ANNOTATION_BYTES)
        data = path.read_bytes()
        # Only a DOCTYPE can declare an entity. Without one the parser in C, ten times as fast as
        # the one that refuses entities, is as safe.
        parse = ElementTree.fromstring if _has_no_doctype(data) else defused_fromstring
        return parse(data)
    except EntitiesForbidden:
        raise ValueError("it declares an XML entity, which no annotation needs") from None
    except (ParseError, OSError, LookupError) as error:
        raise ValueError(f"no well-formed XML: {error}") from error


def _has_no_doctype(data: bytes) -> bool:
    """Whether a file certainly has no DOCTYPE, in an encoding in which one would be seen."""
    declared = _ENCODING.match(data)
    if declared is None and data.startswith((b"<?xml", BOM_UTF8 + b"<?xml")):
        return False
    return b"\0" not in data and b"<!DOCTYPE" not in data


def _without_suffix(listed: str, images: ImageIndex) -> PurePosixPath:
    path = PurePosixPath(listed.replace("\\", "/"))
    is_xml = path.name.lower().endswith(".xml")
    return path.parent / (path.name[:-4] if is_xml else images.stem_of(path.name))


def _ends_with(listed: PurePosixPath, xml: Path) -> bool:
    return listed.parts[-len(xml.parts) :] == xml.with_suffix("").parts


def _content(
    tree: Element, where: str, records: RecordSet
) -> tuple[tuple[int, int] | None, list[_Object]]:
    """Return the stated size and the readable objects of a file; ValueError refuses it."""
    if tree.tag != "annotation":
        raise ValueError(f"its root is <{tree.tag}>, expected <annotation>")
    size, objects = _stated_size(tree), []
    for number, element in enumerate(tree.iterfind("object"), start=1):
        try:
            objects.append(_object(element, number))
        except ValueError as error:
            at = f"{where}, object {number}"
            records.reject(InvalidKind.UNREADABLE_OBJECT, at, error)
    return size, objects


def _object(element: Element, number: int) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("it has no <name>")
    box = element.find("bndbox")
    x0, y0, x1, y1 = (_number(box, k, "bndbox/") for k in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return number, name, (x0, y0, x1, y1), int(difficult)


def _place(image: ImageRecord, number: int) -> str:
    return f"{image.where}, object {number}"


def _stated_size(tree: Element) -> tuple[int, int] | None:
    size = tree.find("size")
    if size is None:
        return None
    width, height = _number(size, "width", "size/"), _number(size, "height", "size/")
    if (width, height) == (0, 0):  # some labelling tools write 0 when they do not know the size
        return None
    if not (width.is_integer() and height.is_integer()):  # False for NaN and infinity as well
        raise ValueError(f"<size> is {width:g} x {height:g}")
    return int(width), int(height)


def _number(parent: Element | None, tag: str, path: str) -> float:
    text = None if parent is None else parent.findtext(tag)
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"<{path}{tag}> is {text!r}, expected a number") from None


def _file_name(tree: Element) -> str:
    written = (tree.findtext("filename") or "").strip()
    return PurePosixPath(written.replace("\\", "/")).name


def _find_image(images: ImageIndex, stem: str, file_name: str, folder: Path) -> list[Path]:
    # The stem comes first: <filename> goes stale when files are renamed, and may then name
    # another image of the set.
    found = images.with_stem(stem)
    if not found:
        found = images.named(file_name) or images.with_stem(images.stem_of(file_name))
    for fits in (
        lambda path: path.relative_to(images.root).parent == folder,  # as the XML below its root
        lambda path: path.name == file_name,
    ):
        found = [path for path in found if fits(path)] or found
    return found

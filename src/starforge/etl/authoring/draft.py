"""Draft: a mapping proposed from documents, as Python source that its user then corrects.

What is proposed reads the documents that it was made from without an error; whether its keys and types are
the right ones, only somebody who knows the source can say. Names that a path cannot hold stay in `extra`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starforge.db.migrate import migrations
from starforge.etl.authoring.declaration import Drafted, said, source
from starforge.etl.authoring.guess import COLUMNS_MAX, Guess, guess, is_path, key_type, name_of, singular
from starforge.etl.document.path import join
from starforge.etl.document.shape import is_keyed
from starforge.etl.errors import UndraftableError

TABLES_MAX = 40
DEPTH_MAX = 4
"""Objects in objects become columns of their own down to here; what lies deeper is kept as JSON."""

ROOT_SCALARS_MAX = 4
"""What holds one object and at most so much beside it is an envelope."""

KINDS_MAX = 60
TELLING = ("resourceType", "type", "kind", "@type", "_type", "eventType")
"""Fields that tell the items of one array apart."""

ID_NAMES = ("id", "uuid", "code", "key")
SUBJECT_NAMES = (*ID_NAMES, "name", "number", "email")
TIME_TYPES = ("EPOCH_S", "EPOCH_MS", "TIMESTAMP")
TABLE = re.compile(r"CREATE TABLE (\w+)")
OWN_COLUMNS = ("tenant_id", "extra", "created_at", "updated_at", "last_seen")


@dataclass(slots=True)
class _Items:
    """The items of one array or keyed object in each document."""

    path: str
    documents: list[list[dict[str, Any]]]
    keys: list[str] | None = None
    where: tuple[str, str] | None = None
    words: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[dict[str, Any]]:
        return [item for items in self.documents for item in items]


def draft(documents: Sequence[Any], name: str, *, subject: str | None = None) -> str:
    """Propose a mapping of these documents.

    Args:
        documents: Parsed documents of one source, 1 or more; the more unlike, the better the proposal.
        name: The source.
        subject: The field below the root that says whose state a document is; guessed where not given.
    Returns: Python source that declares MAPPING and an app with it.
    Raises: UndraftableError where no document is an object, or no field says whose state it is.
    """
    objects = [document for document in documents if isinstance(document, dict)]
    if not objects or len(objects) < len(documents):
        raise UndraftableError("a snapshot is no object at its root; a mapping reads fields of objects")
    path, roots, taken_at = _root(objects, subject)
    found = list(_collections(roots))[:TABLES_MAX]
    names = {table for each in migrations() for table in TABLE.findall(each.text)}
    top = _top(roots, name, subject, {each.path for each in found}, names)
    tables = [] if top is None else [top]
    tables += [_table(each, top, names) for each in found]
    whose = top or next((table for table in tables if table.singular and table.own_key), None)
    if whose is None:
        raise UndraftableError("no field says whose state a snapshot is; name it with --subject")
    return source(name, whose.name, path, tables, taken_at)


def _root(
    documents: list[dict[str, Any]], subject: str | None
) -> tuple[str, list[dict[str, Any]], tuple[str, str] | None]:
    """Step into envelopes, where there is one object in each document and little beside it.

    Returns: The path of the object inside, that object of each document, and the path and type of a time in
    an envelope: when the document was taken.
    """
    path, taken_at = "", None
    while True:
        if any(subject in document for document in documents):
            return path, documents, taken_at
        inner = {
            name for document in documents for name, value in document.items() if isinstance(value, dict)
        }
        others = max(len(document) for document in documents) - 1
        if len(inner) != 1 or others > ROOT_SCALARS_MAX or not is_path(name := inner.pop()):
            return path, documents, taken_at
        below = [document.get(name) for document in documents]
        beside = [v for document in documents for v in document.values() if isinstance(v, list)]
        if beside or not all(isinstance(each, dict) and each and not is_keyed(each) for each in below):
            return path, documents, taken_at
        taken_at = _time(documents, path) or taken_at
        path, documents = join(path, name), [each for each in below if isinstance(each, dict)]


def _time(documents: list[dict[str, Any]], at: str) -> tuple[str, str] | None:
    for name in documents[0]:
        values = [value for document in documents if (value := document.get(name)) is not None]
        if is_path(name) and values and (type_ := guess(name, values).type) in TIME_TYPES:
            return join(at, name), type_
    return None


def _collections(roots: list[dict[str, Any]]) -> Iterator[_Items]:
    """Yield what holds items: arrays of objects and objects keyed by id, at the root."""
    for name in dict.fromkeys(name for root in roots for name in root):
        values = [root.get(name) for root in roots]
        held = [value for value in values if value is not None]
        if not is_path(name) or not any(held):
            continue
        if all(isinstance(value, dict) and (is_keyed(value) or not value) for value in held):
            items = [list(value.values()) if value else [] for value in values]
            if all(isinstance(item, dict) for each in items for item in each):
                keys = [key for value in held for key in value]
                yield _Items(name, items, keys, words=[name])
        elif all(isinstance(value, list) for value in held):
            items = [value or [] for value in values]
            if all(isinstance(item, dict) for each in items for item in each):
                yield from _told_apart(_Items(name, items, words=[name]))


def _told_apart(items: _Items) -> Iterator[_Items]:
    """Split the items of an array by what kind they say that they are, also one object further in."""
    for inner in ("", *_inner_objects(items.all)):
        lists = [[item[inner] if inner else item for item in each] for each in items.documents]
        for telling in TELLING:
            kinds = Counter(str(item.get(telling)) for each in lists for item in each)
            sure = all(isinstance(item.get(telling), str) for each in lists for item in each)
            if (
                sure
                and 1 <= len(kinds) <= KINDS_MAX
                and (inner or len(kinds) > 1)
                and sum(kinds.values()) > 1
            ):
                path = f"{items.path}[]" + (f".{inner}" if inner else "")
                for kind in kinds:
                    chosen = [[item for item in each if item[telling] == kind] for each in lists]
                    yield _Items(path, chosen, where=(telling, kind), words=[kind])
                return
    yield items


def _inner_objects(items: list[dict[str, Any]]) -> list[str]:
    names = set.intersection(*({n for n, v in item.items() if isinstance(v, dict)} for item in items))
    return sorted(name for name in names if is_path(name))


def _top(
    roots: list[dict[str, Any]], name: str, subject: str | None, elsewhere: set[str], tables: set[str]
) -> Drafted | None:
    """Propose the table of the root, or None where no field there says whose state a document is."""
    chosen = subject or _identifying(roots, SUBJECT_NAMES)
    if chosen is None:
        return None
    values = [root.get(chosen) for root in roots]
    type_ = key_type(values)
    if not is_path(chosen) or type_ is None:
        raise UndraftableError(f"{chosen!r} holds no text or integer in every snapshot")
    names = {"id", *OWN_COLUMNS}
    column = name_of("external_id" if chosen.lower() == "id" else chosen, names)
    others = _columns(roots, names, skipped={chosen, *elsewhere})
    columns = [_column(column, chosen, Guess(type_)), *others]
    key = ["tenant_id", column]
    return Drafted(name_of(name, tables), "", columns, key, singular=True, own_key=chosen)


def _identifying(objects: list[dict[str, Any]], called: Sequence[str]) -> str | None:
    """Return the field that most likely tells objects apart: always there, and an id by its name."""
    best: tuple[int, int, str] | None = None
    for place, name in enumerate(objects[0] if objects else ()):
        values = [each.get(name) for each in objects]
        if not is_path(name) or key_type(values) is None:
            continue
        words = re.findall(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]*", name)
        last = words[-1].lower() if words else ""
        if last in called:
            rank = called.index(last) + (0 if len(words) == 1 else len(called))
            rank += 100 * (len(set(map(str, values))) < len(values))
            best = min(best or (rank, place, name), (rank, place, name))
    return best[2] if best else None


def _table(items: _Items, top: Drafted | None, taken: set[str]) -> Drafted:
    name = name_of("_".join(items.words), taken)
    own: dict[str, str] = {}
    names = set(OWN_COLUMNS)
    if top is not None:
        names.add(scope := f"{singular(top.name)}_id"[:63])
        own[scope] = f"Ref({said(scope)}, {said(top.name)}, {said(f'/{top.own_key}')})"
    plain = items.where is None
    key = _own_key(items, per_document=top is not None)
    if items.keys is not None:
        id_column = name_of(f"{singular(name)}_id", names)
        own[id_column] = _column(id_column, None, Guess(_keys_type(items.keys)))
        rows = f"Each({said(items.path)})"
    elif key is not None:
        id_column = name_of(key, names)
        type_ = key_type([item[key] for item in items.all])
        own[id_column] = _column(id_column, None if plain else key, Guess(type_ or "TEXT"))
        rows = f"Each({said(items.path)}, id={said(key)})" if plain else ""
    else:
        id_column = name_of("position", names)
        own[id_column] = f"Column({said(id_column)}, POSITION, INTEGER)"
        rows = f"Each({said(items.path)})"
    if items.where is not None:
        rows = f"Each({said(items.path)}, where={{{said(items.where[0])}: {said(items.where[1])}}})"
    skipped = {key or ""} | ({items.where[0]} if items.where else set())
    columns = [*own.values(), *_columns(items.all, names, skipped)]
    alone = all(len(each) == 1 for each in items.documents)
    return Drafted(
        name,
        rows,
        columns,
        [*own] if top is not None else ["tenant_id", *own],
        left='Keep("last_seen")' if top is not None and items.keys is not None else _deleted(top),
        singular=alone and key is not None,
        own_key=key,
    )


def _deleted(top: Drafted | None) -> str:
    return "Delete()" if top is not None else ""


def _own_key(items: _Items, *, per_document: bool) -> str | None:
    """Return the field that tells items apart: in each document, or in all."""
    if items.keys is not None or not items.all:
        return None
    found = _identifying(items.all, ID_NAMES)
    if found is None:
        return None
    groups = items.documents if per_document else [items.all]
    told = [[str(item[found]) for item in each] for each in groups]
    return found if all(len(set(each)) == len(each) for each in told) or not per_document else None


def _keys_type(keys: list[str]) -> str:
    numbers = all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", key, re.ASCII) and key != "-0" for key in keys)
    return "BIGINT" if numbers else "TEXT"


def _columns(
    objects: list[dict[str, Any]], names: set[str], skipped: set[str], at: str = "", depth: int = 1
) -> Iterator[str]:
    """Propose a column for each field, objects in objects included."""
    for name in dict.fromkeys(name for each in objects for name in each):
        path = join(at, name)
        if path in skipped or not is_path(name) or len(names) > COLUMNS_MAX:
            continue
        values: list[Any] = [value for each in objects if (value := each.get(name)) is not None]
        if not values:
            continue
        nested = all(isinstance(value, dict) and not is_keyed(value) for value in values)
        if nested and depth < DEPTH_MAX and any(values):
            yield from _columns(values, names, skipped, path, depth + 1)
        elif not (nested and not any(values)):
            yield _column(name_of(path, names), path, guess(name, values))


def _column(name: str, path: str | None, found: Guess) -> str:
    unit = f", unit={said(found.unit)}" if found.unit else ""
    return f"Column({said(name)}, {'ID' if path is None else said(path)}, {found.type}{unit})"

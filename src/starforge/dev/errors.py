"""The errors of the development room."""

from __future__ import annotations

from starforge.errors import RefusedError, UnreachableError


class FolderInUseError(RefusedError):
    """The folder for generated files holds something that this run would not write anew."""

    code = "SF801"
    remedy = "Name an empty folder, or use --force: then what else is there stays, beside the new files."


class FolderUnwritableError(UnreachableError):
    """Generated files could not be written: no permission, no space, or not a folder."""

    code = "SF802"
    remedy = "Free space or mend the permissions where the message says, then run it again."

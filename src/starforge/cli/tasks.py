"""Commands on jobs one by one: enqueue, task ls, task inspect, task tail."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
import typer

from starforge.cli.doors import group
from starforge.cli.render import as_table, print_json, run, say
from starforge.cli.work import JsonOption

if TYPE_CHECKING:
    from starforge.db.pool import Pool
    from starforge.queue.job import Accepted, NewJob
    from starforge.queue.jobs import Job, Listed, News

IdArgument = Annotated[UUID, typer.Argument(metavar="ID", help="The job's id.")]
STDIN_BYTES_MAX = 64 * 1024 * 1024
SHOWN_CHARS = 80


def add(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("enqueue")(enqueue)
    task = group(app, "task")
    task.command("ls")(ls)
    task.command("inspect")(inspect)
    task.command("tail")(tail)


def enqueue(
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The job's type.")],
    payload: Annotated[
        str, typer.Argument(metavar="[JSON]", help="Its arguments, a JSON object; - reads standard input.")
    ] = "{}",
    app: Annotated[
        str | None,
        typer.Option("--app", metavar="MODULE:ATTR", help="Check against this app, and use its defaults."),
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Queue to put it in.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher runs first.")] = None,
    delay: Annotated[float | None, typer.Option(metavar="SECONDS", help="Start no sooner than this.")] = None,
    key: Annotated[str | None, typer.Option(help="Of jobs with one key there is one at a time.")] = None,
    within: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The key also holds for this long from now.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Word to find it by; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Enqueue a job of TYPE with the arguments in JSON."""
    from starforge.errors import InvalidInputError
    from starforge.queue.enqueue import enqueue as accept
    from starforge.queue.job import Key

    if within is not None and key is None:
        raise InvalidInputError("--within stands without --key: it says how long the key holds")
    job = _new_job(app, job_type, _payload(job_type, payload))
    job.queue = job.queue if queue is None else queue
    job.priority = job.priority if priority is None else priority
    job.delay_s = job.delay_s if delay is None else delay
    job.tags = (*job.tags, *(tag or ()))
    if key is not None:
        job.unique = Key(key, within_s=within)

    async def work(pool: Pool) -> tuple[Accepted, bool]:
        from starforge.queue.known import as_declared
        from starforge.settings import HomeSettings

        async with pool.transaction(tenant=HomeSettings.read().tenant) as conn:
            known = app is not None or await as_declared(conn, job, queue=queue is None)
            return await accept(conn, job), known

    accepted, known = run(work)
    if as_json:
        print_json({"id": accepted.id, "new": accepted.new})
    elif accepted.new:
        say(f"enqueued {accepted.id}")
        if not known:
            say(f"No worker has declared the type {job_type!r} yet: the job waits for one that does.")
        say(f"→ starforge task tail {accepted.id}")
    else:
        say(f"nothing new: the key {job.unique and job.unique.text!r} belongs to job {accepted.id}")


def _payload(job_type: str, text: str) -> Any:
    from starforge.queue.errors import PayloadError

    raw = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1) if text == "-" else text.encode("utf-8", "replace")
    if len(raw) > STDIN_BYTES_MAX:
        raise PayloadError(f"the payload of a {job_type} job has more than {STDIN_BYTES_MAX} bytes")
    try:
        payload = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PayloadError(f"the payload of a {job_type} job is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise PayloadError(f"the payload of a {job_type} job is not a JSON object: {{…}}")
    return payload


def _new_job(app: str | None, job_type: str, payload: Any) -> NewJob:
    """Make the job as the app does, which checks its arguments; without an app as it stands."""
    from starforge.app import load
    from starforge.queue.errors import UnknownTypeError
    from starforge.queue.job import NewJob

    if app is None:
        return NewJob(job_type, payload)
    loaded = load(app)
    if loaded.job_types().declared(job_type) is None:
        names = ", ".join(loaded.job_types().names())
        raise UnknownTypeError(f"--app {app} has no job type {job_type!r}; it has {names}")
    return loaded.new_job(job_type, payload)


def ls(
    queue: Annotated[str | None, typer.Option(help="Only jobs of this queue.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only jobs in this state; without it those still in the queue.")
    ] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List jobs, the newest first."""
    from starforge.queue.jobs import list_jobs
    from starforge.settings import HomeSettings

    async def read(pool: Pool) -> list[Listed]:
        async with pool.transaction(tenant=HomeSettings.read().tenant) as conn:
            return await list_jobs(conn, queue=queue, job_type=job_type, state=state, tag=tag, most=limit)

    found = run(read)
    if as_json:
        print_json(found)
        return
    if not found:
        say(
            "No job fits."
            if state
            else "No job that fits is in the queue; --state completed shows what ended."
        )
        return
    as_table(
        ("job", "type", "queue", "state", "failures", "starts", "tags", "last error"),
        [
            (
                job.id,
                job.type,
                job.queue,
                job.state,
                f"{job.attempts} of {job.max_attempts}",
                _at(job.run_after) if job.state in ("scheduled", "retry") else None,
                " ".join(job.tags or ()) or None,
                _short(job.error),
            )
            for job in found
        ],
    )


def inspect(
    job_id: IdArgument,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show the payload too: it may be private.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of job ID."""
    from starforge.queue.jobs import job_by_id
    from starforge.settings import HomeSettings

    async def read(pool: Pool) -> Job:
        async with pool.transaction(tenant=HomeSettings.read().tenant) as conn:
            return await job_by_id(conn, job_id, with_payload=payload)

    job = run(read)
    document = asdict(job)
    if not payload:
        del document["payload"]
    if as_json:
        print_json(document)
        return
    trace = None
    if isinstance(job.last_error, dict):
        trace = job.last_error.get("trace")
        document["last_error"] = {name: told for name, told in job.last_error.items() if name != "trace"}
    as_table(
        ("", ""), [(name, _value(told)) for name, told in document.items() if told not in (None, "", [])]
    )
    if trace:
        say(str(trace))


def tail(job_id: IdArgument, as_json: JsonOption = False) -> None:
    """Follow job ID to its end: states, progress, lines; exit 0 completed, 1 otherwise; Ctrl-C leaves it."""
    from starforge.queue.jobs import follow
    from starforge.settings import HomeSettings

    async def watch(pool: Pool) -> Job | None:
        last = None
        async for news in follow(pool, job_id, HomeSettings.read().tenant):
            if as_json:
                _print_news(news)
            else:
                _say_news(news, last)
            last = news.job or last
        return last

    try:
        job = run(watch)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    if job is None or job.state != "completed":
        raise typer.Exit(1)


def _print_news(news: News) -> None:
    """Print one JSON document per line: each line that the job wrote, then the job where it changed."""
    for line in news.lines:
        print_line({"line": asdict(line)})
    if news.job is not None:
        document = asdict(news.job)
        del document["payload"]
        print_line({"job": document})


def print_line(document: object) -> None:
    """Print a JSON document on a line of its own, at once."""
    typer.echo(msgspec.json.encode(document).decode())
    sys.stdout.flush()


def _say_news(news: News, before: Job | None) -> None:
    for line in news.lines:
        say(f"{line.at:%H:%M:%S} {line.level:<7} {line.line}")
    job = news.job
    if job is None:
        return
    if before is None:
        say(f"job {job.id} ({job.type}, queue {job.queue})")
    if before is None or (job.state, job.attempts) != (before.state, before.attempts):
        say(_state(job), style=_style(job))
    if job.progress is not None and (before is None or job.progress != before.progress):
        say(f"  {_progress(job)}")
    if job.state == "completed" and job.result is not None:
        say(_value(job.result))


def _state(job: Job) -> str:
    """Say in one line where the job is and why."""
    why = job.reason or (job.last_error.get("reason") if isinstance(job.last_error, dict) else job.last_error)
    attempt = (job.attempts or 0) + 1
    told = {
        "scheduled": f"scheduled for {_at(job.run_after)}",
        "retry": f"attempt {job.attempts} of {job.max_attempts} failed: {why}; next at {_at(job.run_after)}",
        "running": f"running on worker {job.worker_id}, attempt {attempt} of {job.max_attempts}",
        "completed": f"completed after {(job.ran_ms or 0) / 1000:.3f} s",
        "failed": f"failed after {job.attempts} attempts: {why}",
        "quarantined": f"quarantined: {why}",
        "cancelled": f"cancelled: {why}",
        "archived": f"archived as a dead letter: {why}",
    }
    return told.get(job.state, job.state)


def _style(job: Job) -> str:
    if job.state == "completed":
        return "green"
    return "red" if job.final else ""


def _progress(job: Job) -> str:
    progress = job.progress
    assert progress is not None
    done = "" if progress.done is None else f"{progress.done:g}"
    of = f" of {progress.total:g}" if progress.total else ""
    share = f" ({progress.done / progress.total:.0%})" if progress.total and progress.done is not None else ""
    return " ".join(filter(None, (f"{done}{of}{share}", progress.message)))


def _value(told: Any) -> str:
    if isinstance(told, (dict, list)):
        return msgspec.json.encode(told).decode()
    return _at(told) or "" if isinstance(told, datetime) else str(told)


def _at(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _short(text: str | None) -> str | None:
    if text is None or len(text) <= SHOWN_CHARS:
        return text
    return text[: SHOWN_CHARS - 1] + "…"

"""Marks written for people and for programs: a gradebook, everything as JSON, JUnit XML, a page for each student."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from minideepseek.files import atomic_file
from minideepseek.judge.grading.marks import Marks, TaskMarks, file_name
from minideepseek.judge.grading.run import missing
from minideepseek.judge.sandbox.isolation import PROTECTIONS
from minideepseek.judge.task import Pack


def write(out: Path, graded: Sequence[Marks], chosen: Sequence[Pack]) -> list[Path]:
    """Write gradebook.csv, results.json, junit.xml and feedback/NAME.html; each whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    packs = [pack for pack in chosen if any(pack.exercise in marks.exercises for marks in graded)] or list(chosen)
    everybody = [(marks, _filled(marks, packs)) for marks in graded]
    written = {
        "gradebook.csv": _gradebook(everybody),
        "results.json": _json(everybody),
        "junit.xml": _junit(everybody),
    }
    secret = any(pack.secret for pack in packs)
    for marks, tasks in everybody:
        written[f"feedback/{file_name(marks.name, '.html')}"] = page(marks, tasks, secret=secret)
    for name, content in written.items():
        with atomic_file(out / name) as beside:
            beside.write_text(content, encoding="utf-8")
    return [out / name for name in written]


def _filled(marks: Marks, packs: Sequence[Pack]) -> list[TaskMarks]:
    """All tasks of the exercises that the class did, those that this student left out too."""
    found = {task.task: task for task in marks.tasks}
    return [found.get(task.id) or missing(task) for pack in packs for task in pack.tasks]


Everybody = Sequence[tuple[Marks, list[TaskMarks]]]


def _gradebook(everybody: Everybody) -> str:
    out = io.StringIO()
    table = csv.writer(out)
    tasks = everybody[0][1] if everybody else []
    table.writerow(["student", *(task.task for task in tasks), "points", "out_of"])
    for marks, tasks in everybody:
        points, out_of = sum(task.points for task in tasks), sum(task.out_of for task in tasks)
        table.writerow([_inert(marks.name), *(f"{task.points:g}" for task in tasks), f"{points:g}", f"{out_of:g}"])
    return out.getvalue()


def _inert(name: str) -> str:
    """A student named =HYPERLINK(...) must not become a formula of a spreadsheet."""
    return f"'{name}" if name[:1] in "=+-@\t" else name


def _json(everybody: Everybody) -> str:
    students = [
        {
            **asdict(marks),
            "points": sum(task.points for task in tasks),
            "out_of": sum(task.out_of for task in tasks),
            "tasks": [{**asdict(task), "points": task.points, "out_of": task.out_of} for task in tasks],
        }
        for marks, tasks in everybody
    ]
    return json.dumps({"students": students}, indent=1) + "\n"


def _junit(everybody: Everybody) -> str:
    root = ElementTree.Element("testsuites")
    for marks, tasks in everybody:
        suite = ElementTree.SubElement(root, "testsuite", name=_xml(marks.name), time=f"{marks.seconds:.3f}")
        for task in tasks:
            for one in task.properties:
                case = ElementTree.SubElement(suite, "testcase", classname=task.task, name=one.name)
                if one.says:
                    ElementTree.SubElement(case, "failure", message=_xml(one.says)).text = _xml(one.detail)
        suite.set("tests", str(sum(len(task.properties) for task in tasks)))
        suite.set("failures", str(sum(bool(one.says) for task in tasks for one in task.properties)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """Without the characters that XML has no way to write."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 1.6rem 0 .3rem; display: flex; justify-content: space-between; }
ul { list-style: none; margin: 0; padding: 0; } li { padding: .2rem 0 .2rem 1.6rem; position: relative; }
li::before { content: "✓"; color: #1a7f37; position: absolute; left: .2rem; }
li.failed::before { content: "✗"; color: #b3261e; } .why { color: #57606a; } .points { color: #57606a; }
"""


def page(marks: Marks, tasks: Sequence[TaskMarks], *, secret: bool) -> str:
    """A student's page: each property with its points and, where it fails, why.

    Args:
        marks: of the student.
        tasks: all tasks of the exercises.
        secret: the checks are hidden ones: what could tell their inputs stays out of the page.
    """
    points, out_of = sum(task.points for task in tasks), sum(task.out_of for task in tasks)
    body = [f"<h1>{escape(marks.name)}: {points:g} of {out_of:g} points</h1>"]
    body += [f"<p class='why'>{escape(note)}</p>" for note in marks.notes]
    for task in tasks:
        head = f"<span>{escape(task.task)}</span><span class='points'>{task.points:g} of {task.out_of:g}</span>"
        body.append(f"<h2>{head}</h2>\n<ul>")
        told: set[str] = set()
        for one in task.properties:
            why = one.says if secret or not one.detail else f"{one.says} ({one.detail})"
            text = f"{escape(one.name)} <span class='points'>{one.points:g}/{one.out_of:g}</span>"
            text += f"<div class='why'>{escape(why)}</div>" if why and why not in told else ""
            told.add(why)
            body.append(f"<li{' class=failed' if one.says else ''}>{text}</li>")
        body.append("</ul>")
    title = f"{escape(marks.name)}: feedback"
    head = f"<meta charset='utf-8'><title>{title}</title>\n<style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"


def protections(graded: Sequence[Marks]) -> str:
    """One line: what the kernel of this machine enforced while answers ran, and what it did not."""
    ran = [set(marks.protections) for marks in graded if marks.protections]
    if not ran:
        return "sandbox: nothing ran"
    there = set.intersection(*ran)
    absent = [what for name, what in PROTECTIONS.items() if name not in there]
    if not absent:
        return f"sandbox: complete ({', '.join(PROTECTIONS)})"
    lack = "sandbox: INCOMPLETE, this system does not enforce that an answer " + ", ".join(absent)
    return lack + "; grade strangers' work in a virtual machine with Linux"

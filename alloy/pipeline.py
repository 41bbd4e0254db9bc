"""A pipeline: one YAML of documents that says merge, cut, search, train and GGUF, in this order or another.

    name: both
    merge_method: linear
    models: [...]
    ---
    merge_method: passthrough
    slices: [...]                 # of `both`
    ---
    train: distillation           # of the recipe above
    datasets: [{path: heal.jsonl}]
    ---
    gguf: [Q4_K_M]

Documents are recipes, recipes with ranges and a `search:` block, trainings, and at the end types of GGUF files. A
merge that only the next document uses is made on the way and never written. What a training or a search leaves is kept
in a work folder until the end, so a pipeline that died continues with the stage that is missing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from checkpoints.problems import Cancelled, MergeError, PlanError, Problem, ProblemError, RecipeError
from checkpoints.yaml import parts
from merging.destinations import scheme_of
from merging.recipe.yaml import YamlReader, place_of

if TYPE_CHECKING:
    from healing import HealPlan, TrainingStep
    from merging import Plan, Result
    from searching import SearchPlan

Kind = Literal["recipe", "search", "train", "gguf"]
_DONE = "pipeline.json"


@dataclass(frozen=True)
class PipelineDocument:
    """A document of a pipeline.

    Args:
        kind: what it says
        name: by which later documents call its result; empty where it has none
        text: its YAML, without the line that separates it from the one before
        line: of the whole text on which it begins, from 0 on
        words: what is written in it, where a name may stand
        where: its place, for problems
    """

    kind: Kind
    name: str
    text: str
    line: int
    words: frozenset[str]
    where: Any = None

    def renamed(self, places: Mapping[str, str]) -> PipelineDocument:
        """The same with other names of models."""
        if not self.words & places.keys():
            return self
        lines = self.text.splitlines(keepends=True)
        found = [node for node in _values(_composed(self.text)) if node.value in places]
        for node in sorted(
            found, key=lambda node: (node.start_mark.line, node.start_mark.column), reverse=True
        ):
            first, last = node.start_mark, node.end_mark
            line = lines[first.line]
            lines[first.line] = line[: first.column] + json.dumps(places[node.value]) + line[last.column :]
        return replace(self, text="".join(lines), words=self.words | {*places.values()})


def _composed(text: str) -> yaml.Node | None:
    found: yaml.Node | None = yaml.compose(text, yaml.SafeLoader)
    return found


def _values(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """All scalars of a document but keys and its own name."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value != "name":
                yield from _values(value)
    elif node is not None:
        for part in parts(node):
            yield from _values(part)


@dataclass(frozen=True)
class Pipeline:
    """Documents that more than a merge takes.

    Args:
        text: all of it
        documents: in order, without that of GGUF files
        gguf: types of GGUF files that are made of the last one's result
        places: of results that are there, by their names
    """

    text: str
    documents: tuple[PipelineDocument, ...]
    gguf: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Identifies the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def chain(self, last: PipelineDocument, instead: Mapping[str, PipelineDocument] | None = None) -> str:
        """The text of a document and of the recipes that it needs, at the lines where they are.

        Args:
            last: the document
            instead: documents by name that stand for those of the pipeline
        """
        known = {one.name: one for one in self.documents if one.name and one.kind == "recipe"} | dict(
            instead or {}
        )
        wanted: list[PipelineDocument] = []

        def need(document: PipelineDocument) -> None:
            for name in sorted(document.words & known.keys()):
                if name != document.name and known[name] not in wanted:
                    need(known[name])
            if document not in wanted:
                wanted.append(document)

        if last.kind == "train":
            taken = self.before(last)
            need(known.get(taken.name, taken))
        need(last)
        text = ""
        for number, document in enumerate(wanted):
            text += "\n" * max(document.line - text.count("\n") - 1, 0)
            text += ("---\n" if number or document.line else "") + document.text.rstrip("\n") + "\n"
        return text

    def before(self, training: PipelineDocument) -> PipelineDocument:
        """The recipe of the model that a training trains: the document before it; behind another training a recipe of
        that one's result."""
        found = self.documents[self.documents.index(training) - 1]
        if found.kind != "train":
            return found
        model = json.dumps(self.places.get(found.name, found.name))
        text = f"merge_method: passthrough\nmodels: [{{model: {model}}}]\n"
        return PipelineDocument("recipe", "", text, 0, frozenset([found.name]))


class _Reader(YamlReader):
    def pipeline(self) -> Pipeline | None:
        """The pipeline; None for recipes alone, which are read elsewhere."""
        nodes = self.documents()
        kinds = [_kind(node) for node in nodes]
        if self.problems or not {"train", "gguf"} & {*kinds}:
            return None
        lines = self.text.splitlines(keepends=True)
        starts = [_start(lines, node) for node in nodes]
        found: list[PipelineDocument] = []
        gguf: tuple[str, ...] = ()
        for node, kind, start, end in zip(nodes, kinds, starts, [*starts[1:], len(lines)], strict=True):
            if kind == "gguf":
                if node is not nodes[-1]:
                    self.problem("last-stage-gguf", {}, node)
                gguf = self.gguf(node)
                continue
            text = "".join(lines[start:end])
            text = text.partition("\n")[2] if text.startswith("---") else text
            line = start + (1 if lines[start].startswith("---") else 0)
            words = frozenset(value.value for value in _values(node))
            found.append(PipelineDocument(kind, _name(node), text, line, words, place_of(node)))
        self.check(found, nodes)
        return Pipeline(self.text, tuple(found), gguf)

    def gguf(self, node: yaml.Node) -> tuple[str, ...]:
        from merging.gguf.types import file_types

        given = self.mapping(node, "`gguf`", ("gguf",)) or {}
        value = given.get("gguf")
        if isinstance(value, yaml.ScalarNode):
            names = tuple(word.strip() for word in value.value.split(","))
        else:
            names = self.sequence(value, "gguf", lambda one: self.text_of(one, "`gguf`"))
        try:
            return tuple(kind.name for kind in file_types(names))
        except MergeError as error:
            for problem in error.problems:
                self.report(replace(problem, where=place_of(value) if value else ""))
            return names

    def check(self, documents: Sequence[PipelineDocument], nodes: Sequence[yaml.Node]) -> None:
        """Find documents that nothing uses, and names that are missing or there twice."""
        if not documents or documents[0].kind == "train":
            self.problem("no-stage-before", {"key": "train" if documents else "gguf"}, nodes[0])
            return
        seen: set[str] = set()
        for number, (document, node) in enumerate(zip(documents, nodes, strict=False)):
            if document.name and document.name in seen:
                self.problem("stage-name-repeated", {"name": document.name}, node)
            seen.add(document.name)
            behind = documents[number + 1 :]
            is_trained = bool(behind) and behind[0].kind == "train"
            is_named = bool(document.name)
            if not is_named and (document.kind == "search" or (document.kind == "train" and behind)):
                self.problem("stage-name", {}, node)
            elif not behind or is_trained:
                continue
            elif not is_named:
                self.problem("stage-name", {}, node)
            elif not any(document.name in one.words for one in behind):
                self.problem("stage-unused", {"name": document.name}, node)


def _kind(node: yaml.Node) -> Kind:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    keys = {key.value for key, _ in pairs}
    if "train" in keys:
        return "train"
    if "gguf" in keys and "merge_method" not in keys:
        return "gguf"
    return "search" if "search" in keys else "recipe"


def _name(node: yaml.Node) -> str:
    assert isinstance(node, yaml.MappingNode)
    return next((str(value.value) for key, value in node.value if key.value == "name"), "")


def _start(lines: Sequence[str], node: yaml.Node) -> int:
    """The line that separates a document from the one before; 0 where there is none."""
    return max(
        (i for i in range(node.start_mark.line + 1) if lines[i].startswith("---")),
        default=0,
    )


def read_pipeline(text: str) -> Pipeline | None:
    """Read a pipeline; None for a text that has recipes alone.

    Raises:
        RecipeError: the documents do not follow from each other.
    """
    reader = _Reader(text)
    found = reader.pipeline()
    if found and reader.problems:
        raise RecipeError(reader.problems)
    return found


@dataclass(frozen=True)
class Stage:
    """A document that is carried out by itself, and what is known of it before.

    Args:
        document: it
        plan: of the merge, the search or the training
    """

    document: PipelineDocument
    plan: Plan | SearchPlan | HealPlan

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.plan.problems


@dataclass(frozen=True)
class PipelinePlan:
    """What a pipeline will do.

    Args:
        pipeline: it
        stages: that are carried out one after the other
        merge: the plan of a merge of the same shapes and parents as the result
        gguf_problems: what prevents its GGUF files
        folder: that names of files are relative to
        device: that trains and searches
    """

    pipeline: Pipeline
    stages: tuple[Stage, ...]
    merge: Plan
    gguf_problems: tuple[Problem, ...]
    folder: Path
    device: str

    @property
    def problems(self) -> tuple[Problem, ...]:
        found = [problem for stage in self.stages for problem in stage.problems]
        return tuple(dict.fromkeys([*found, *self.gguf_problems]))

    @property
    def ok(self) -> bool:
        return not self.problems


def plan_pipeline(
    pipeline: Pipeline, to: str | None = None, *, folder: Path = Path(), device: str = "auto"
) -> PipelinePlan:
    """Plan every stage, from headers alone: what a training or a search will leave has the shapes of its recipe.

    Args:
        pipeline: from `read_pipeline`
        to: where the result will go; None: that is not checked
        folder: that names of files are relative to
        device: that trains and searches: "cpu", "cuda" or "auto"

    Raises:
        RecipeError: a document cannot be read.
    """
    from healing import plan_training
    from merging import make_plan, read_recipe
    from searching import plan_search, read_space

    instead: dict[str, PipelineDocument] = {}
    stages: list[Stage] = []
    merge: Plan | None = None
    for document in pipeline.documents:
        is_last = document is pipeline.documents[-1]
        goes_to = to if is_last else None
        if document.kind == "search":
            space = read_space(document.text)
            start = replace(document, kind="recipe", text=space.recipe(space.start).text)
            instead[document.name] = start
            if document.words & {one.name for one in pipeline.documents if one.name}:
                found: Any = make_plan(read_recipe(pipeline.chain(start, _called(instead))))
            else:
                found = plan_search(space, folder=folder, device=device)
            stages.append(Stage(document, found))
            document = start
        elif document.kind == "train":
            taken = pipeline.before(document)
            chain = pipeline.chain(document, _called(instead))
            heal = plan_training(chain, folder=folder, to=goes_to, device=device)
            stages.append(Stage(document, heal))
            merge = heal.merge
            if document.name:
                instead[document.name] = instead.get(taken.name, taken)
            continue
        if is_last:
            merge = make_plan(read_recipe(pipeline.chain(document, _called(instead))), goes_to)
            stages.append(Stage(document, merge))
    assert merge
    gguf = _gguf_problems(pipeline.gguf, merge, to) if pipeline.gguf and merge.ok else ()
    return PipelinePlan(pipeline, tuple(stages), merge, gguf, folder, device)


def _gguf_problems(types: Sequence[str], merge: Plan, to: str | None) -> tuple[Problem, ...]:
    """What prevents GGUF files of a merge: of its kind, of what is installed, and where they would go."""
    from merging.destinations import open_destination
    from merging.engine.gguf import layout_of
    from merging.engine.run import gguf_place
    from merging.gguf.quantization import check_quantizer
    from merging.gguf.types import file_types

    try:
        check_quantizer(file_types(types))
        layout_of(merge, "result", "", None, lambda: None)
        return tuple(open_destination(gguf_place(to)).check()) if to else ()
    except ProblemError as error:
        return tuple(error.problems)


def _called(instead: Mapping[str, PipelineDocument]) -> dict[str, PipelineDocument]:
    """Recipes under the names that later documents use."""
    return {name: replace(one, name=name, text=_named(one.text, name)) for name, one in instead.items()}


def _named(text: str, name: str) -> str:
    """A recipe under a name."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("name:")]
    return "".join([f"name: {name}\n", *lines])


@dataclass(frozen=True)
class Done:
    """What a pipeline came to.

    Args:
        result: where the model is; None where a training did not heal
        found: how it was made, in Markdown
    """

    result: Result | None
    found: str


def run_pipeline(
    plan: PipelinePlan,
    to: str,
    *,
    work: Path | None = None,
    keep: bool = False,
    private: bool = True,
    on_stage: Callable[[int, PipelineDocument], None] | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    cancel: threading.Event | None = None,
) -> Done:
    """Carry out a pipeline. One that died continues with the stage that is missing; one that was cancelled leaves
    nothing behind.

    Args:
        plan: from `plan_pipeline`, without problems
        to: a folder, `hf://owner/name`, or an address in an object store
        work: a folder for what stages leave; removed at the end. None: beside the result
        keep: continue with a training's result even if it did not heal
        private: whether a repository that is created is private
        on_stage: called with the number of a stage, from 1 on, before it
        on_step: called after each step of a training
        cancel: set it from another thread to stop

    Raises:
        PlanError: the plan has problems, or the work folder is another pipeline's.
        ProblemError: a stage failed.
        Cancelled: `cancel` was set.
    """
    if not plan.ok:
        raise PlanError(plan.problems)
    run = _Run(plan, to, work or _work(plan.pipeline, to), keep, private, on_step, cancel)
    try:
        done = run.done(on_stage)
    except (Cancelled, KeyboardInterrupt):
        shutil.rmtree(run.work, ignore_errors=True)
        raise
    if done.result:
        shutil.rmtree(run.work, ignore_errors=True)
    return done


def _work(pipeline: Pipeline, to: str) -> Path:
    if scheme_of(to):
        return Path(tempfile.gettempdir()) / f"alloy-pipeline-{pipeline.key[:16]}"
    return Path(f"{to.rstrip('/')}.pipeline")


class _Run:
    """A pipeline that is carried out; arguments as those of `run_pipeline`."""

    def __init__(
        self,
        plan: PipelinePlan,
        to: str,
        work: Path,
        keep: bool,
        private: bool,
        on_step: Callable[[TrainingStep], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        self.plan = plan
        self.pipeline = plan.pipeline
        self.to = to
        self.work = work.resolve()
        self.keep = keep
        self.private = private
        self.on_step = on_step
        self.cancel = cancel
        self.instead: dict[str, PipelineDocument] = {}
        self.places: dict[str, str] = {}

    def done(self, on_stage: Callable[[int, PipelineDocument], None] | None) -> Done:
        self.found: dict[str, str] = self._found()
        documents = [stage.document for stage in self.plan.stages]
        for number, document in enumerate(documents, 1):
            if on_stage:
                on_stage(number, document)
            is_last = document is self.pipeline.documents[-1]
            if document.kind == "search":
                self._search(document)
            elif document.kind == "train":
                result = self._train(
                    document, self.to if is_last else str(self.work / document.name), is_last
                )
                if result is None or is_last:
                    return Done(result, self._said())
        return Done(self._merge(self.pipeline.documents[-1]), self._said())

    def _found(self) -> dict[str, str]:
        """What finished stages said, by their names.

        Raises:
            PlanError: the folder is another pipeline's.
        """
        mark = self.work / _DONE
        if mark.exists():
            stored = json.loads(mark.read_text(encoding="utf-8"))
            if stored["key"] == self.pipeline.key:
                return dict(stored["found"])
        if self.work.exists() and any(self.work.iterdir()):
            raise PlanError(Problem("other-pipeline", {"folder": str(self.work)}))
        self.work.mkdir(parents=True, exist_ok=True)
        self._keep({})
        return {}

    def _keep(self, found: Mapping[str, str]) -> None:
        beside = self.work / f"{_DONE}.part"
        beside.write_text(json.dumps({"key": self.pipeline.key, "found": dict(found)}), encoding="utf-8")
        beside.replace(self.work / _DONE)

    def _note(self, name: str, said: str) -> None:
        self.found[name] = said
        self._keep(self.found)

    def _said(self) -> str:
        return "\n\n".join(said.strip() for said in self.found.values())

    def _chain(self, document: PipelineDocument) -> str:
        """A document and the recipes it needs, with the folders of what earlier stages left."""
        placed = tuple(
            self.instead.get(one.name, one).renamed(self.places) for one in self.pipeline.documents
        )
        here = placed[self.pipeline.documents.index(document)]
        return replace(self.pipeline, documents=placed, places=self.places).chain(here)

    def _train(self, document: PipelineDocument, to: str, is_last: bool) -> Result | None:
        """Where the trained model is; None if it did not heal."""
        from healing import plan_training, run_training
        from healing.run import training_section
        from merging import Result

        if document.name in self.found:
            self.places[document.name] = to
            return Result(to, None, None, 0, 0.0)
        plan = plan_training(
            self._chain(document),
            folder=self.plan.folder,
            to=to if is_last else None,
            device=self.plan.device,
        )
        healed = run_training(
            plan,
            to,
            keep=self.keep,
            private=self.private,
            gguf=(self.pipeline.gguf or None) if is_last else None,
            found=self._said(),
            story=self.pipeline.text,
            on_step=self.on_step,
            cancel=self.cancel,
        )
        self._note(document.name, training_section(plan, healed))
        self.places[document.name] = to
        return healed.result

    def _search(self, document: PipelineDocument) -> None:
        """Search, and let the recipe that was found stand for the document."""
        from searching import plan_search, read_space, run_search

        best = self.work / f"{document.name}.yaml"
        if document.name not in self.found:
            for name in sorted(document.words & {one.name for one in self.pipeline.documents if one.name}):
                self._written(name)
            space = read_space(document.renamed(self.places).text)
            plan = plan_search(space, folder=self.plan.folder, device=self.plan.device)
            if not plan.ok:
                raise PlanError(plan.problems)
            found = run_search(plan, self.work / f"{document.name}.search", cancel=self.cancel)
            recipe = found.best or space.recipe(space.start)
            best.write_text(recipe.text, encoding="utf-8")
            self._note(document.name, found.report.card())
        text = best.read_text(encoding="utf-8")
        text = _named(text, document.name)
        words = frozenset(value.value for value in _values(_composed(text)))
        self.instead[document.name] = replace(document, kind="recipe", text=text, words=words)

    def _written(self, name: str) -> None:
        """Merge a recipe that a search reads, which takes models that are there."""
        from merging import make_plan, read_recipe, run_plan

        document = next(one for one in self.pipeline.documents if one.name == name)
        folder = self.work / name
        if name in self.places or document.kind != "recipe":
            return
        if not folder.exists():
            run_plan(make_plan(read_recipe(self._chain(document))), str(folder), cancel=self.cancel)
        self.places[name] = str(folder)

    def _merge(self, document: PipelineDocument) -> Result:
        """The last merge."""
        from merging import licence_of, make_plan, read_recipe, run_plan

        plan = make_plan(read_recipe(self._chain(document)), self.to)
        return run_plan(
            plan,
            self.to,
            private=self.private,
            licence=licence_of(self.plan.merge, None),
            found=self._said(),
            made_of=replace(self.plan.merge, recipe=self.pipeline.text),
            gguf=self.pipeline.gguf or None,
            cancel=self.cancel,
        )


def described(plan: PipelinePlan) -> list[dict[str, Any]]:
    """What each stage will do, as JSON."""
    return [
        {"stage": stage.document.kind, "name": stage.document.name, **stage.plan.summary()}
        for stage in plan.stages
    ]

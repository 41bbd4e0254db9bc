"""The fields that say where the result goes, and under whose account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ui.host import Host
from ui.hub.account import Identity, account, identify
from ui.languages.translate import in_each_language, t
from ui.merge.destination import (
    BUCKET,
    DOWNLOAD,
    FOLDER,
    HUB,
    PULL_REQUEST,
    REFUSE,
    REVISION,
    DestinationChoice,
)
from ui.server import gpu
from ui.widgets.events import QUIET, Given, Updates
from ui.widgets.html import note, prose, section
from ui.widgets.phone_fold import folded_on_phones


class DestinationPanel:
    """The fields, made inside the page's Blocks.

    Attributes:
        name: of the new model
        details: the column of the fields
        inputs: what `choice` needs the values of
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        gr.HTML(in_each_language(lambda: section(t("destination.heading"))))
        self.whose = gr.HTML()
        with folded_on_phones(lambda: t("destination.fold")) as self.details, gr.Group():
            with gr.Row():
                self.kind = gr.Radio(
                    [(t("destination.hub"), HUB), self._files(), (t("destination.bucket"), BUCKET)],
                    value=HUB,
                    label=t("destination.kind"),
                    info=t("destination.kind.info", folder=host.results)
                    if host.allow_folders
                    else t("destination.kind.download"),
                    min_width=240,
                )
                self.address = gr.Textbox(
                    label=t("destination.address"), placeholder="hf://buckets/owner/name", max_lines=1, min_width=240,
                    info=t("destination.address.info.here" if host.allow_folders else "destination.address.info"),
                    visible=False,
                )  # fmt: skip
                self.owner = gr.Dropdown([], label=t("destination.owner"), min_width=160)
                self.name = gr.Textbox(
                    label=t("destination.name"), info=t("destination.name.info"), max_lines=1, min_width=240,
                    scale=2,
                )  # fmt: skip
            # Not in a row: on a phone Gradio squeezes a checkbox beside another field into one letter a line.
            self.private = gr.Checkbox(
                True, label=t("destination.private"), info=t("destination.private.info")
            )
            self.existing = gr.Radio(
                self._existing(folders=False), value=REFUSE, label=t("destination.existing"),
                info=t("destination.existing.info"),
            )  # fmt: skip
        self.identity = gr.State(Identity())
        self.inputs: set[Any] = {
            self.kind, self.owner, self.address, self.name, self.private, self.existing, self.identity
        }  # fmt: skip

    @property
    def changes(self) -> list[Callable[..., Any]]:
        """The events after which another destination may be meant."""
        return [
            self.kind.input, self.owner.input, self.address.input, self.address.blur, self.name.input,
            self.name.blur, self.existing.input,
        ]  # fmt: skip

    def wire(self, page: gr.Blocks) -> None:
        """Add the events; the page's loading asks whose account it is."""
        fields = [self.owner, self.address, self.private, self.existing]
        self.kind.change(self._kind_chosen, self.kind, fields, **QUIET)
        page.load(
            self._ask_who, None, [self.identity, self.whose, self.kind, self.owner, self.private], **QUIET
        )

    def choice(self, values: Given) -> DestinationChoice:
        """What the fields say."""
        return DestinationChoice(
            kind=values[self.kind],
            owner=values[self.owner] or "",
            name=values[self.name].strip(),
            existing=values[self.existing],
            private=values[self.private],
            owners=values[self.identity].owners,
            address=(values[self.address] or "").strip(),
        )

    @staticmethod
    def _existing(folders: bool) -> list[tuple[str, str]]:
        """What may happen to an existing model: a folder, here or in a bucket, takes no pull request."""
        choices = [(t("destination.refuse"), REFUSE), (t("destination.revision"), REVISION)]
        return choices if folders else [*choices, (t("destination.pull_request"), PULL_REQUEST)]

    def _files(self) -> tuple[str, str]:
        """Where files go: to this machine if it is the visitor's own, else to the visitor's."""
        if self.host.allow_folders:
            return t("destination.folder"), FOLDER
        return t("destination.download"), DOWNLOAD

    def _ask_who(self, oauth: gr.OAuthToken | None) -> Updates:
        who = account(self.host, oauth)
        identity = identify(who)
        if identity.name:
            line = t(f"account.{who.source}", name=identity.name)
        elif identity.trouble:
            line = identity.trouble
        else:
            line = t("account.nobody.laptop" if self.host.allow_folders else "account.nobody.space")
        kind = HUB if identity.name else FOLDER if self.host.allow_folders else DOWNLOAD
        on_hub, owners = kind == HUB, list(identity.owners)
        return {
            self.identity: identity,
            self.whose: note(prose(" ".join(filter(None, [line, gpu.quota(who.token)])))),
            self.kind: kind,
            self.owner: gr.update(choices=owners, value=identity.name or None, visible=on_hub),
            self.private: gr.update(visible=on_hub),
        }

    def _kind_chosen(self, kind: str) -> Updates:
        choices = self._existing(folders=kind in (FOLDER, BUCKET))
        return {
            self.owner: gr.update(visible=kind == HUB),
            self.address: gr.update(visible=kind == BUCKET),
            self.private: gr.update(visible=kind in (HUB, BUCKET)),
            self.existing: gr.update(visible=kind != DOWNLOAD, choices=choices, value=REFUSE),
        }

"""Pieces of a page that ipywidgets lacks: samples to choose by their photos, a row of checkboxes, a page of its own."""

from collections.abc import Iterable, Sequence

import ipywidgets as widgets
import traitlets

from mtive_nb.data.photos import PhotoError
from mtive_nb.data.records import question_of
from mtive_nb.show.pictures import side_by_side_url

WIDTH_PX, HEIGHT_PX, NAME_PX = 104, 72, 24  # of a sample's photo, and of the line with its name


class Samples(widgets.HBox):
    """A button with photo and name for each record; `value` is the place of the chosen one, None without records.

    A photo that cannot be read leaves its button without a picture.
    """

    value = traitlets.Int(None, allow_none=True)

    def __init__(self, records: Sequence[dict]) -> None:
        super().__init__(layout=widgets.Layout(flex_flow="row wrap"))
        self.add_class("samples")
        self.buttons = [_button(record) for record in records]
        pictures = [_picture_css(f"s{b.model_id}", r["images"]) for b, r in zip(self.buttons, records, strict=True)]
        for k, button in enumerate(self.buttons):
            button.add_class(f"s{button.model_id}")
            button.on_click(lambda _, k=k: self._choose(k))
        self.children = [hidden_css(_CSS + "".join(pictures)), *self.buttons]
        self.observe(self._mark, "value")
        self.value = 0 if self.buttons else None

    def _choose(self, k: int) -> None:
        self.value = None  # a second click brings the sample back as well
        self.value = k

    def _mark(self, _: object) -> None:
        for k, button in enumerate(self.buttons):
            button.button_style = "info" if k == self.value else ""


def page_of_its_own(page: widgets.Box) -> None:
    """Let Voilà show this page alone, without the rest of the notebook.

    On a phone, tables of photos become lists, and what is still too wide scrolls.
    """
    page.add_class("own-page")
    page.children = [hidden_css(PAGE_CSS), *page.children]


def hidden_css(css: str) -> widgets.HTML:
    """Return a widget that shows nothing and adds rules of style to its page."""
    return widgets.HTML(f"<style>{css}</style>", layout=widgets.Layout(display="none"))


def _button(record: dict) -> widgets.Button:
    size = widgets.Layout(width=f"{WIDTH_PX + 8}px", height=f"{HEIGHT_PX + NAME_PX + 8}px")
    name = f"{record['task']} {record['product_id']}"
    return widgets.Button(description=name, tooltip=f"{record['task']}: {question_of(record)}", layout=size)


def _picture_css(name: str, images: Sequence[str]) -> str:
    try:
        return f".{name}{{background-image:url({side_by_side_url(images, width_px=WIDTH_PX, height_px=HEIGHT_PX)})}}"
    except PhotoError:
        return ""


# Voilà puts each cell into an element with `cell-index`.
PAGE_CSS = (
    "body[data-voila] [cell-index]:not(:has(.own-page)){display:none}.own-page .widget-html-content{overflow-x:auto}"
    ".own-page .answers td{line-height:1.4}@media(max-width:600px){.own-page .answers tr:first-child{display:none}"
    ".own-page .answers tr{display:flex;flex-wrap:wrap}.own-page .answers img{max-width:100%}}"
)
_CSS = (
    f".samples .jupyter-button{{background-position:center 4px;background-repeat:no-repeat;"
    f"padding:{HEIGHT_PX + 6}px 4px 0;line-height:{NAME_PX}px;font-size:12px}}"
)


class Ticks(widgets.HBox):
    """A checkbox for each of `options`; `value` holds the ticked ones. New options are ticked."""

    def __init__(self) -> None:
        super().__init__(layout=widgets.Layout(flex_flow="row wrap"))

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(box.description for box in self.children)

    @options.setter
    def options(self, names: Iterable[str]) -> None:
        look = {"indent": False, "layout": widgets.Layout(width="auto")}
        self.children = [widgets.Checkbox(value=True, description=name, **look) for name in names]

    @property
    def value(self) -> tuple[str, ...]:
        return tuple(box.description for box in self.children if box.value)

    @value.setter
    def value(self, names: Iterable[str]) -> None:
        names = set(names)
        for box in self.children:
            box.value = box.description in names

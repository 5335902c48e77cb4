"""Shown: what shows itself as a page in Jupyter, VS Code and marimo, and as text in a terminal."""

from mlops_ray.show.document import document, with_style


class Shown:
    """A value with both forms. It says `title`, `_html` and `_text`; dataclasses that are Shown have `repr=False`."""

    @property
    def title(self) -> str:
        raise NotImplementedError

    def _html(self) -> str:
        """The body, without the style that all share; texts of users are escaped in it."""
        raise NotImplementedError

    def _text(self) -> str:
        """The same in lines, without control characters of users' texts."""
        raise NotImplementedError

    _style: str = ""

    def page(self) -> str:
        """A whole HTML file that needs no network."""
        return document(self.title, self._repr_html_())

    def _repr_html_(self) -> str:
        return with_style(self._html(), self._style)

    def _mime_(self) -> tuple[str, str]:
        """What marimo asks for."""
        return "text/html", self._repr_html_()

    def __repr__(self) -> str:
        return self._text()

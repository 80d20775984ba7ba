"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """A bar on a terminal; in a log file or pipe a plain line now and then, without control characters."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, total: int, start: int = 0, what: str = "", *, shown: bool = True) -> None:
        self.total, self.done, self.what, self.text = total, start, what, ""
        self.first, self.began = start, time.monotonic()
        self.printed = self.began
        self.shown, terminal = shown, shown and sys.stderr.isatty()
        self.bar: tqdm | None = None
        if terminal:  # one below another goes away with its end
            self.bar = tqdm(total=total, initial=start, desc=what, dynamic_ncols=True, leave=None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.shown and self.done > self.first:
            self._print()

    def say(self, text: str) -> None:
        """Text to show behind the progress."""
        self.text = text
        if self.bar is not None:
            self.bar.set_postfix_str(text)

    def note(self, text: str) -> None:
        """A line of its own that stays."""
        if self.shown:
            tqdm.write(text, file=sys.stderr)

    def update(self, done: int) -> None:
        if self.bar is not None:
            self.bar.update(done - self.done)
        self.done = done
        if self.bar is None and self.shown and time.monotonic() - self.printed > self.SECONDS_BETWEEN_LINES:
            self._print()

    def _print(self) -> None:
        self.printed = time.monotonic()
        elapsed = self.printed - self.began
        left = elapsed / max(1, self.done - self.first) * (self.total - self.done)
        parts = [f"{self.what} {self.done}/{self.total}", self.text, f"{elapsed:.0f} s, {left:.0f} s left"]
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

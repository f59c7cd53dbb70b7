"""The next tokens of all requests in a step, chosen together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers_glm.generation.interface import Step
from mindformers_glm.generation.job import Job
from mindformers_glm.generation.sampling import Asked, Choice, check_numbers, choices
from mindformers_glm.generation.search import Samples


class Turn:
    """A request whose open sequences get tokens: sequence r from row `places[r]` of the logits; after the prompt, all
    from the same row.

    `guesses[r]` were computed after the newest token of sequence r: after each right one the next row of logits gives
    another token. The outcome is `step`, or the `error` that one of the request's own functions raised.
    """

    def __init__(self, job: Job, places: Sequence[int], guesses: Sequence[Sequence[int]] = ()) -> None:
        self.job, self.guesses = job, guesses
        self.places = list(places)
        self.step: Step | None = None
        self.error: BaseException | None = None
        self.chosen: list[list[int]] = [[] for _ in self.places]

    def ask(self, samples: Samples, row: int, place: int) -> Asked | None:
        """How to choose the token of a sequence; None where an error has ended the request."""
        try:
            return None if self.error else Asked(place, samples.ask(row), samples.config)
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits for this request
            self.error = error
            return None

    def take(self, samples: Samples, row: int, choice: Choice | BaseException) -> bool:
        """Appends a token to a sequence; returns whether it gets another one from the next row of logits."""
        if self.error is not None or isinstance(choice, BaseException):
            self.error = self.error or choice  # type: ignore[assignment]
            return False
        try:
            token, goes_on = samples.take(row, choice)
            guesses, done = self.guesses[row] if self.guesses else (), len(self.chosen[row])
            self.chosen[row].append(choice.token)
            self.job.ticket.push(token)
        except BaseException as error:  # noqa: BLE001
            self.error = error
            return False
        return goes_on and done < len(guesses) and guesses[done] == choice.token

    def close(self, samples: Samples) -> None:
        """Sets `step`, after the last tokens of its sequences."""
        if self.error is None:
            going = samples.close_step()
            accepted = [len(tokens) - 1 for tokens in self.chosen]
            parents = [0] * len(going) if len(set(self.places)) == 1 else going
            self.step = Step(parents, [self.chosen[row][-1] for row in going], [], accepted)

    def advance(self, logits: np.ndarray) -> None:
        """The same for a search that needs the logits of all its sequences at once."""
        try:
            mine = logits[self.places]
            check_numbers(mine)
            step = self.job.search.advance(mine)
            for event in step.events:
                self.job.ticket.push(event)
            self.step = step
        except BaseException as error:  # noqa: BLE001
            self.error = error


def take_turns(turns: Sequence[Turn], logits: np.ndarray) -> None:
    """Sets `step` or `error` of every turn. One call chooses tokens for the sequences of all requests; where guesses
    were right, a further one chooses the next tokens of these sequences.
    """
    waiting: list[tuple[Turn, Samples, int, int]] = []
    for turn in turns:
        search = turn.job.search
        if isinstance(search, Samples):
            waiting += [(turn, search, row, place) for row, place in enumerate(turn.places)]
        else:
            turn.advance(logits)
    while waiting:
        asked = [turn.ask(samples, row, place) for turn, samples, row, place in waiting]
        waiting = [one for one, wish in zip(waiting, asked, strict=True) if wish is not None]
        chosen = choices(logits, [wish for wish in asked if wish is not None])
        waiting = [
            (turn, samples, row, place + 1)
            for (turn, samples, row, place), choice in zip(waiting, chosen, strict=True)
            if turn.take(samples, row, choice)
        ]
    for turn in turns:
        if isinstance(turn.job.search, Samples):
            turn.close(turn.job.search)


def places_after_prompt(job: Job, place: int) -> list[int]:
    """The row of logits of each open sequence after the prompt, whose last logits are in row `place`."""
    return [place] * (job.search.num_open if isinstance(job.search, Samples) else 1)

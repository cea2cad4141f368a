"""The string-matching learner of Theorem 2.2 (Malach et al., arXiv 2510.14826): a table, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.base import Cost, Options, SequenceModel

SURE = 20.0
"""The logit of the token it says; all others have 0."""

_ASKING = 0
"""The context of every token of the question, and of the initial state. No entry of the table leads back to it."""


@dataclass(frozen=True)
class LookupOptions(Options):
    contexts: int
    """Room of the table; what does not fit is not learnt. A machine takes about six for each (state, symbol)."""


class Lookup(SequenceModel):
    """A table from (state, symbol) to what follows, read off trajectories; says the end where it has read nothing.

    The state is the last token before a command that was answered, the symbol the answer: in the run of a Turing
    machine `carry [READ] 1` they are `carry` and `1`, as in the theorem. What follows is the string of tokens up to the
    next answered command, which begins the next context. So a context is the string since the last state, a node of a
    trie; the whole memory of a sequence is the number of that node. Of two continuations of one context the first that
    was read counts. Nothing is said about the question: the first context begins with its last token.

    A context never read says the token that trajectories end with, and the context is lost until the next command
    that gets answers. Without a tool there is only one context, the string since the question.
    """

    learns: ClassVar[Literal["gradients", "reading"]] = "reading"
    sizes: ClassVar[Mapping[str, LookupOptions]] = {
        "tiny": LookupOptions(contexts=4_096),
        "small": LookupOptions(contexts=16_384),
        "paper": LookupOptions(contexts=65_536),
    }

    def __init__(self, vocabulary: int, options: LookupOptions) -> None:
        super().__init__(vocabulary, options)
        self.first = vocabulary + 1
        """The context right after a question. Context 1 + t: lost, the last token being t."""
        if options.contexts <= self.first:
            raise ValueError(f"contexts: {options.contexts} leave no room, a vocabulary of {vocabulary} needs more")
        places = (options.contexts, vocabulary)
        # int32 [contexts, V]: the context that a token leads to, 0 for none. That of an answered command leaves from
        # the lost context of the token before it, the state. A parameter, for its device to be that of the model.
        self.table = nn.Parameter(torch.zeros(places, dtype=torch.int32), requires_grad=False)
        self.register_buffer("says", torch.full((options.contexts,), -1, dtype=torch.int32))  # -1: nothing
        self.register_buffer("last", torch.zeros(options.contexts, dtype=torch.int32))  # each context's last token
        self.register_buffer("answered", torch.zeros(vocabulary, dtype=torch.bool))  # commands that get answers
        self.register_buffer("known", torch.tensor([self.first + 1, -1, -1]))  # contexts, end of question and of all
        self.last[1 : self.first] = torch.arange(vocabulary, dtype=torch.int32)
        self.says: Tensor
        self.last: Tensor
        self.answered: Tensor
        self.known: Tensor

    @torch.no_grad()
    def read(self, tokens: Tensor, own: Tensor, lengths: Tensor) -> None:
        reader = _Reader(self)
        for row, mine, length in zip(tokens.tolist(), own.tolist(), lengths.tolist(), strict=True):
            reader.read(row[:length], mine[:length])
        reader.write()

    def knows(self, state: int, command: int, symbol: int) -> bool:
        """Whether it has read what follows `symbol` as the answer to `command` in `state` (all tokens)."""
        asked = int(self.table[1 + state, command])
        return asked > 0 and bool(self.table[asked, symbol] > 0)

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> Tensor:
        """int64 [B]: the context of each row."""
        return torch.full((batch,), _ASKING, device=self.device if device is None else device)

    def hidden(
        self, tokens: Tensor, state: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features: int64 [B, T, 1], what it says next."""
        contexts = [_ASKING] * len(tokens) if state is None else state.tolist()
        counts = [tokens.shape[1]] * len(tokens) if lengths is None else lengths.tolist()
        following, says = self._automaton()
        said = []
        for row, (line, count) in enumerate(zip(tokens.tolist(), counts, strict=True)):
            here = contexts[row]
            words = [0] * len(line)
            for at in range(count):
                here = following[here][line[at]]
                words[at] = says[here]
            contexts[row] = here
            said.append(words)
        features = torch.tensor(said, dtype=torch.int64, device=tokens.device).reshape(*tokens.shape, 1)
        return features, torch.tensor(contexts, device=tokens.device)

    def head(self, features: Tensor) -> Tensor:
        logits = torch.zeros(*features.shape[:-1], self.vocabulary, device=features.device)
        return logits.scatter_(-1, features, SURE)

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        features, state = self.hidden(tokens[:, None], state)
        return self.head(features[:, 0]), state

    def cost(self, length: int) -> Cost:
        """Nothing is trained by gradients and nothing multiplied."""
        return Cost(parameters=0, flops=0.0, state_bytes=8)

    def _automaton(self) -> tuple[list[list[int]], list[int]]:
        """What the table means: the next context by context and token, and what each context says."""
        used, question_end, end = self.known.tolist()
        table, says = self.table[:used], self.says[:used]
        tokens = torch.arange(self.vocabulary, device=table.device, dtype=torch.int32)
        commanded = table[1 + self.last[:used].long()]
        following = torch.where(self.answered, commanded, table)
        following = torch.where(following == 0, 1 + tokens, following)
        following[_ASKING] = torch.where(tokens == question_end, self.first, _ASKING)
        return following.tolist(), torch.where(says < 0, max(end, 0), says).tolist()


class _Reader:
    """The table as lists, which grow quickly."""

    def __init__(self, model: Lookup) -> None:
        self.model = model
        self.used, self.question_end, self.end = model.known.tolist()
        self.table = model.table[: self.used].tolist()
        self.says, self.last = model.says[: self.used].tolist(), model.last[: self.used].tolist()
        self.answered = set(model.answered.nonzero().flatten().tolist())

    def read(self, tokens: Sequence[int], own: Sequence[bool]) -> None:
        """Enter one trajectory."""
        question = list(own).index(True)
        if self.question_end < 0:
            self.question_end = self.last[self.model.first] = tokens[question - 1]
        self.end = tokens[-1] if self.end < 0 else self.end
        self.answered.update(token for token, mine, given in zip(tokens, own, own[1:]) if mine and not given)
        context, before = self.model.first, tokens[question - 1]
        for token, mine in zip(tokens[question:], own[question:], strict=True):
            if mine and self.says[context] < 0:
                self.says[context] = token
            origin = 1 + before if token in self.answered else context
            if not self.table[origin][token] and not self._grow(origin, token):
                return
            context, before = self.table[origin][token], token

    def _grow(self, origin: int, token: int) -> bool:
        """A new context; False when there is no room."""
        if self.used == self.model.options.contexts:
            return False
        self.table[origin][token] = self.used
        self.table.append([0] * self.model.vocabulary)
        self.says.append(-1)
        self.last.append(token)
        self.used += 1
        return True

    def write(self) -> None:
        """Put the lists back into the model."""
        model = self.model
        for home, values in ((model.table, self.table), (model.says, self.says), (model.last, self.last)):
            home[: self.used] = torch.tensor(values, dtype=torch.int32)
        model.answered[list(self.answered)] = True
        model.known.copy_(torch.tensor([self.used, self.question_end, self.end]))

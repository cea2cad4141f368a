"""The tables Lengthwise keeps: column name -> (Arrow type, meaning).

A leaf module: it imports nothing of ours, so that reports can read a store without torch. Types are Arrow type names
(`string`, `int64`, `double`, `bool`); every column may be null. Rows are the record; the rest is derived from them.
"""

from __future__ import annotations

FORMAT = 1
"""Version of the store layout and of these tables. A store with a higher number was written by a newer Lengthwise."""

Table = dict[str, tuple[str, str]]

ROWS: Table = {
    # which point
    "cell": ("string", "id of the cell"),
    "checkpoint": ("string", "hash of the weights that were evaluated"),
    "evaluation": ("string", "hash of the evaluation settings that change a result"),
    "attempt": ("string", "id of the attempt in the ledger that wrote the row"),
    "length": ("int64", "the length asked for"),
    "stress": ("string", "which problems: random, jittered, or a stress set of the task"),
    "index": ("int64", "index of the problem in its point, from 0"),
    "problem": ("string", "content hash of the problem"),
    "problem_length": ("int64", "the problem's own length (differs from `length` when jittered)"),
    "question": ("string", "the prompt, tokens joined by spaces, cut at 2,000 characters"),
    # result
    "mode": ("string", "verify (oracle through the parallel forward, then live where it diverged) or live"),
    "exact": (
        "bool",
        "the model's own tokens, and so the whole trajectory, equal the oracle's; null without an oracle",
    ),
    "answer_right": ("bool", "the answer is right; null when the problem diverged and was not rolled out"),
    "strict": (
        "bool",
        "right by the task's stricter measure, too (code_fix: nothing changed that had not to be); null without one",
    ),
    "token_accuracy": (
        "double",
        "share of the model's own tokens predicted right under teacher forcing; null in live mode",
    ),
    "divergence": ("int64", "position in the trajectory (question included, from 0) of the first wrong token"),
    "divergence_step": ("int64", "solver step of the first wrong token, from 0"),
    "divergence_phase": ("string", "name of that solver step"),
    "divergence_role": ("string", "role of the token the oracle has there"),
    "expected": ("string", "the oracle's token there"),
    "got": ("string", "the model's token there"),
    "context": ("string", "the last 24 trajectory tokens before the divergence, joined by spaces"),
    "failure": ("string", "null when exact (or, without an oracle, right), else one of FAILURES"),
    "ending": ("string", "how a live rollout ended: one of ENDINGS; null when nothing was rolled out"),
    "output": ("string", "the answer the live rollout gave, tokens joined by spaces, cut at 2,000 characters"),
    "rollout": (
        "string",
        "the live rollout from the divergence on, observations included: its first 2,000 tokens as a JSON array; "
        "null without one, and after the first 2 diverged problems of a point",
    ),
    "margin": ("double", "least difference of the two best logits over the model's own tokens up to the divergence"),
    "rollout_margin": ("double", "the same over what the live rollout decided after the divergence; null without one"),
    "near_tie": ("bool", "`margin` is below the threshold of the precision: another decoder may decide otherwise"),
    "replay_equal": ("bool", "standing check: a live replay gave the same result; null when not replayed"),
    "chance": (
        "double",
        "probability that the best blind answer to a random problem of `length` is right; null where unknown",
    ),
    # the control of corrupted observations
    "corrupt": ("double", "probability with which a token of an observation was replaced; 0: not this control"),
    "corrupted": ("int64", "observation tokens replaced in the rollout; null outside the control"),
    "corrupted_at": ("int64", "position in the trajectory of the first of them; null if there was none"),
    # work and cost
    "tokens": ("int64", "tokens of the oracle trajectory, question included (live only: of the rollout)"),
    "own_tokens": ("int64", "tokens of it that the model makes"),
    "steps": ("int64", "solver steps of it: the number of the last one, the question being step 0"),
    "tool_calls": ("int64", "commands completed in it"),
    "longest_walk": ("int64", "longest run of moves of one pointer in one direction in it"),
    "work": (
        "int64",
        "nodes of a graph that have to be visited; null where the length says it",
    ),
    "pairs": (
        "int64",
        "distinct (state, symbol) pairs the oracle's trajectory needs, for models that learn by reading; else null",
    ),
    "pairs_unseen": ("int64", "how many of `pairs` the model never read"),
    "rollout_tokens": ("int64", "tokens decoded live for this problem; null when nothing was rolled out"),
    "seconds": ("double", "wall-clock seconds of its batch divided by the problems in it"),
    "peak_bytes": ("int64", "peak device memory while its point was evaluated (CPU: null)"),
    "state_bytes": ("int64", "bytes of the model's state for one sequence at the end of this problem's trajectory"),
    "flops": (
        "double",
        "forward FLOPs of the whole trajectory of `tokens`, `harness.evaluate.trajectory_flops`; null in older rows",
    ),
    # with what
    "device": ("string", "device name"),
    "kernels": ("string", "the implementation chosen for each operation, `operation=choice` joined by spaces"),
    "precision": ("string", "float32 or bf16"),
    "chunk": ("int64", "tokens that went through the forward at once; null in live mode and in older rows"),
}

FAILURES = (
    "wrong_command",
    "wrong_thought",
    "wrong_output",
    "malformed_command",
    "past_budget",
    "stopped_early",
)
"""Why a problem failed. With an oracle, decided at the first divergence: `stopped_early` the model ended where the
oracle goes on, `past_budget` it goes on where the oracle ends, `malformed_command` its token cannot continue the
command begun, else by the role of the token the oracle has there (a wrong imagined observation: wrong thought)."""

ENDINGS = ("finished", "past_budget")

CELLS: Table = {
    "cell": ("string", "id"),
    "name": ("string", "readable name: the values of the axes"),
    "task": ("string", ""),
    "form": ("string", "trajectory form"),
    "setting": ("string", ""),
    "tool": ("string", ""),
    "architecture": ("string", ""),
    "size": ("string", "size preset"),
    "seed": ("int64", ""),
    "replicate": ("int64", ""),
    "max_length": ("int64", "longest training length"),
    "config": ("string", "the whole resolved configuration as JSON"),
    "status": ("string", "one of STATUSES"),
    "reason": ("string", "why it failed, one line"),
    "checkpoint": ("string", "hash of the published weights"),
    "parameters": ("int64", "trainable parameters"),
    "flops_per_token": ("double", "forward FLOPs of the next token after 1,000 tokens"),
    "state_bytes": ("int64", "bytes of state for one sequence after 1,000 tokens"),
    "bound": (
        "int64",
        "smallest length at which a state of so many bits must fail (Theorem 2.1, `harness.bound`); null: none",
    ),
    "no_bound": ("string", "why there is no such length; null where there is"),
    "train_steps": ("int64", ""),
    "train_tokens": ("int64", "real tokens seen in training (padding left out)"),
    "train_tokens_by_task": ("string", "the same by task as JSON: more than one in a mixture"),
    "train_seconds": ("double", "wall-clock seconds of training, over all attempts that led to the checkpoint"),
    "padding": ("double", "share of the processed training tokens that were padding"),
    "validation_exact": ("double", "exact trajectories on validation problems at training lengths"),
    "validation_loss": ("double", "mean loss of the model's own tokens along those, in nats; null if not finite"),
    "validation_problems": ("int64", "denominator of that share"),
    "fit": ("bool", "validation_exact >= 0.95: below, the cell is unfit and says nothing about extrapolation"),
    "train_device": ("string", ""),
    "train_kernels": ("string", ""),
    "versions": ("string", "lengthwise, torch, python and git state, `name=version` joined by spaces"),
}

STATUSES = ("waiting", "training", "evaluating", "done", "failed")

CURVES: Table = {
    "cell": ("string", "id"),
    "step": ("int64", "optimiser step, from 1"),
    "tokens": ("int64", "real tokens seen so far"),
    "loss": ("double", "mean cross-entropy per own token, nats"),
    "learning_rate": ("double", ""),
    "gradient_norm": ("double", "before clipping"),
    "seconds": ("double", "training seconds so far"),
}

FLIPS: Table = {
    "cell": ("string", "id of the cell"),
    "evaluation": ("string", "hash of the other evaluation settings"),
    "differs": ("string", "what is other there: `precision bf16 instead of float32`"),
    "length": ("int64", "the length asked for"),
    "stress": ("string", "which problems"),
    "n": ("int64", "problems that both evaluations judged"),
    "lost": ("int64", "of them exact here and not there"),
    "gained": ("int64", "of them exact there and not here"),
    "tied": ("int64", "of those lost and gained, how many were near ties in either evaluation"),
}
"""Verdicts on the same problems by the same weights, evaluated in another way: see `harness.robustness`."""

ATTEMPTS: Table = {
    "attempt": ("string", "id"),
    "cell": ("string", ""),
    "started": ("string", "UTC, ISO 8601"),
    "ended": ("string", "UTC, ISO 8601; null when it never said so"),
    "outcome": ("string", "done, failed, stopped, lost or running"),
    "reason": ("string", "error type and message, one line"),
    "traceback": ("string", ""),
    "host": ("string", ""),
    "device": ("string", ""),
}

"""Tells the engine and the oracle what workflows hear of others: messages, the ends of children, and wakes."""

from __future__ import annotations

from everstep.store.models import CheckpointKind
from support.rows import OPEN
from support.story import Claim
from support.telling import Telling, agree


class TellingMail(Telling):
    def has_mail(self) -> list[Claim]:
        """Fresh claims of workflows with a message that nobody has taken."""
        mailboxes = {i: w.mail for i, w in self.oracle.workflows.items()}
        return [c for c in self.fresh() if any(m.taken_at is None for m in mailboxes[c.id])]

    def post(self, id_: str, *, wakes: bool) -> None:
        """Put a message down; whom it wakes is woken later, or, if the sender dies, by nobody."""
        self.bodies += 1
        self.say(
            f"message {self.bodies} is sent to {id_}{'' if wakes else ', and its sender dies'}"
        )
        messages = self.engine.messages
        letter = messages.letter(id_, "t", b"%d" % self.bodies, None)
        sent = self.engine.do(messages.send(self.engine.session, [letter])).get(id_, False)
        agree(sent, self.oracle.send(id_, self.bodies))
        if sent and wakes:
            self.wakes.add(id_)
        self.did("send" if wakes else "send and die", effect=sent)

    def deliver(self) -> None:
        self.say(f"{', '.join(sorted(self.wakes))} are woken")
        woken = self.engine.do(self.engine.messages.wake(self.engine.session, sorted(self.wakes)))
        agree(woken, self.oracle.wake(self.wakes))
        self.wakes = set()
        self.did("wake")

    def listen_to(self, claim: Claim, meanwhile: str) -> None:
        """Look for a message, and take it or park, whatever has happened since the look."""
        signals, message, body = self._look(claim)
        if meanwhile != "nothing":
            self.post(claim.id, wakes=meanwhile != "send and die")
        if meanwhile == "send and wake":
            self.deliver()
        if body is None:
            self.park(claim, None, "message:t", signals)
            return
        agree(self.write(claim, CheckpointKind.RECEIVE, message=message), "written")
        mail = self.oracle.workflows[claim.id].mail
        next(m for m in mail if m.body == body).taken_at = claim.seq
        self.did("receive")

    def _look(self, claim: Claim) -> tuple[int, int | None, int | None]:
        """What the look showed: how many signals, and which message with what body."""
        self.say(f"{claim} looks for a message")
        messages, session = self.engine.messages, self.engine.session
        (seen,) = self.engine.do(messages.peek_messages(session, [(claim.id, "t")], []))
        assert seen is not None
        mail = [m.body for m in self.oracle.workflows[claim.id].mail if m.taken_at is None]
        body = None if seen.body is None else int(seen.body)
        agree((seen.signals, body), (self.oracle.runs[claim.id].signals, (mail or [None])[0]))
        return seen.signals, seen.n, body

    def await_end_of(self, claim: Claim, child: str) -> None:
        self.say(f"{claim} asks for the outcome of {child}")
        messages, session = self.engine.messages, self.engine.session
        self.engine.do(messages.watch(session, [(child, claim.id)]))
        self.oracle.watch(child, claim.id)
        (seen,) = self.engine.do(messages.peek_outcomes(session, [(claim.id, child)]))
        assert seen is not None
        agree(seen.finished, (self.oracle.workflows[child].status != OPEN))
        if seen.finished:
            self.write(claim, CheckpointKind.RESULT)
            self.did("get a result")
        else:
            self.park(claim, None, f"workflow:{child}", seen.signals)
            self.did("await a child")

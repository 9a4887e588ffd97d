-- Whose turn it is to look for workflows whose waker died before it could wake them: its own ticket, because the
-- look is rarer than a sweep where many wait.
INSERT INTO everstep.ticket (task, next_at) VALUES ('forgotten', '-infinity');

-- Transactional steps: the user's SQL first, then the fence, then the checkpoint, then the commit. The run's row
-- is locked for one round trip only, so a slow transaction stands in nobody's way.

-- name: fence
SELECT FROM everstep.run r WHERE r.id = %(id)s AND r.epoch = %(epoch)s AND r.worker_id = %(me)s FOR SHARE;

-- name: record_transaction
INSERT INTO everstep.checkpoint (workflow_id, branch, seq, kind, name, worker_id, epoch, attempts, codec, output,
                                 seconds, recorded_at)
VALUES (%(id)s, %(branch)s, %(seq)s, 11, %(name)s, %(me)s, %(epoch)s, %(attempt)s, %(codec)s, %(output)s,
        %(seconds)s, everstep.clock())
ON CONFLICT (workflow_id, branch, seq) DO NOTHING RETURNING seq;

-- name: recorded_transaction
SELECT c.output, c.codec FROM everstep.checkpoint c
 WHERE c.workflow_id = %(id)s AND c.branch = %(branch)s AND c.seq = %(seq)s;

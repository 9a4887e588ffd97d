-- What a person decides from the command line: which version is current.

-- name: control_versions
SELECT version, state, workers, running, queued, parked, created_at, oldest, next_wake
  FROM everstep.v1_versions ORDER BY created_at DESC, version;

-- name: control_promote
SELECT everstep.set_routing(%(version)s, NULL, 0, NULL) AS revision;

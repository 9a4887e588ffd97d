"""What the tests share: a Postgres of their own, fleets of workers, ledgers, proxies, two-session races."""

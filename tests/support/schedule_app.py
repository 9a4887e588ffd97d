"""What the workers of the schedule tests run: a tick each second, and one each minute in a zone of half hours."""

from datetime import datetime, timedelta

from everstep import App, CatchUp

app = App("schedules")


@app.schedule(
    "* * * * *", timezone="Australia/Lord_Howe", catch_up=CatchUp.all(10_000), name="minutes"
)
@app.schedule(every=timedelta(seconds=1), catch_up=CatchUp.all(10_000), name="seconds")
async def beat(tick: datetime) -> None: ...

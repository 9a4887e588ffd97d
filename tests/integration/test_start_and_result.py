async def test_a_started_workflow_gives_its_result(app, client, worker):
    @app.step
    async def double(x: int) -> int:
        return 2 * x

    @app.workflow
    async def twice(x: int) -> int:
        return await double(x)

    await worker()
    handle = await client.start(twice, 21)
    assert await handle.result(timeout=10) == 42

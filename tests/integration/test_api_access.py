"""What is reached through which group and which webhook; who may ask for what at all is in test_tenancy.py."""

from tests.integration.apis import Api, expect, problem


async def test_foreign_rows_stay_out_of_lists(api: Api) -> None:
    await api.new_webhook()
    await api.new_task()
    for path in (
        "/api/tasks",
        "/api/integrations/webhooks",
        "/api/integrations/deliveries",
        "/api/integrations/events",
    ):
        assert len(expect(await api.admin.get(path), 200)["items"]) == 1
        assert expect(await api.other_admin.get(path), 200) == {"items": [], "nextCursor": None}


async def test_a_group_without_a_name_is_no_group(api: Api) -> None:
    problem(await api.admin.get("/api/tasks?groupId="), 404, "not_found")


async def test_a_delivery_is_found_under_its_own_webhook_only(api: Api) -> None:
    webhook, other = await api.new_webhook(), await api.new_webhook(events=["task.approved"])
    await api.new_task()
    [delivery] = await api.deliveries_of(webhook["id"])
    for at in (f"deliveries/{delivery['id']}", f"replay/{delivery['id']}"):
        method = "GET" if at.startswith("d") else "POST"
        problem(await api.admin(method, f"/api/integrations/webhooks/{other['id']}/{at}"), 404, "not_found")

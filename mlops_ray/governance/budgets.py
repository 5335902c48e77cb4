"""Budgets: what a use case may cost in a month, and the events that tell of one that is nearly spent, or spent."""

from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Connection, and_, insert, select, update

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.tables import budgets

WARN_AT = 0.8


@dataclass(frozen=True)
class Budget:
    """amount: what a month may cost, in `currency`. warn_at: the share of it at which an event warns. month: such as
    "2026-11", or "" for each month that has no budget of its own. warned_for: the month in which it has warned."""

    use_case: str
    month: str
    amount: float
    currency: str
    warn_at: float = WARN_AT
    warned_for: str = ""


def set_budget(store: ControlStore, actor: Actor, budget: Budget, reason: str) -> None:
    """Let it hold from now on, for a month that has begun, too; an event."""
    with store.transaction() as connection:
        old, values = _row(connection, budget.use_case, budget.month), asdict(budget) | {"warned_for": ""}
        if old is None:
            connection.execute(insert(budgets).values(values))
        else:
            connection.execute(update(budgets).where(_is(budget.use_case, budget.month)).values(values))
        _record_change(connection, actor, budget, old, budget, reason)


def take_budget_away(store: ControlStore, actor: Actor, use_case: str, month: str, reason: str) -> bool:
    """Whether there was one; an event if so."""
    with store.transaction() as connection:
        old = _row(connection, use_case, month)
        if old is None:
            return False
        connection.execute(budgets.delete().where(_is(use_case, month)))
        _record_change(connection, actor, old, old, None, reason)
        return True


def budget_of(store: ControlStore, use_case: str, month: str) -> Budget | None:
    """The one that holds in this month: its own, else the one of each month; None without any."""
    with store.reading() as connection:
        return _row(connection, use_case, month) or _row(connection, use_case, "")


def budgets_of_month(store: ControlStore, month: str) -> dict[str, Budget]:
    """As `budget_of`, of each use case that has one."""
    found = [one for one in list_budgets(store) if one.month in ("", month)]
    return {one.use_case: one for one in found}  # by month: its own comes after that of each


def list_budgets(store: ControlStore, use_case: str | None = None) -> list[Budget]:
    query = select(budgets).order_by(budgets.c.use_case, budgets.c.month)
    with store.reading() as connection:
        found = connection.execute(query if use_case is None else query.where(budgets.c.use_case == use_case))
        return [Budget(**row._mapping) for row in found]


def say_warned(store: ControlStore, budget: Budget, month: str, spent: float) -> None:
    """Record `budget.warned`, once a month for a budget as it stands, whoever notices it."""
    with store.transaction() as connection:
        this = _is(budget.use_case, budget.month) & (budgets.c.warned_for != month)
        if connection.execute(update(budgets).where(this).values(warned_for=month)).rowcount:
            payload = _payload(budget, month, spent) | {"budget_of": budget.month}
            subject = f"budget {budget.use_case}"
            record(connection, "budget.warned", SYSTEM, subject, budget.use_case, payload=payload)


def say_exceeded(store: ControlStore, budget: Budget, month: str, spent: float, run: str) -> None:
    """Record that a run was stopped, or not begun."""
    with store.transaction() as connection:
        payload = _payload(budget, month, spent) | {"run": run}
        subject = f"budget {budget.use_case}"
        record(connection, "budget.exceeded", SYSTEM, subject, budget.use_case, payload=payload)


def _payload(budget: Budget, month: str, spent: float) -> dict[str, object]:
    return {"month": month, "spent": round(spent, 6), "amount": budget.amount, "currency": budget.currency}


def _record_change(
    connection: Connection, actor: Actor, named: Budget, old: Budget | None, new: Budget | None, reason: str
) -> None:
    names = ("amount", "currency", "warn_at")
    before, after = (one and {name: getattr(one, name) for name in names} for one in (old, new))
    subject = f"budget {named.use_case}{f' {named.month}' if named.month else ''}"
    record(connection, "budget.changed", actor, subject, named.use_case, before=before, after=after, reason=reason)


def _row(connection: Connection, use_case: str, month: str) -> Budget | None:
    row = connection.execute(select(budgets).where(_is(use_case, month))).first()
    return None if row is None else Budget(**row._mapping)


def _is(use_case: str, month: str) -> ColumnElement[bool]:
    return and_(budgets.c.use_case == use_case, budgets.c.month == month)

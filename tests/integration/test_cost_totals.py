"""What the unit tests say of totals and budgets, on PostgreSQL."""

from tests.unit.test_cost_totals import (
    test_a_month_has_its_own_budget_or_that_of_each as test_a_month_has_its_own_budget_or_that_of_each,
)
from tests.unit.test_cost_totals import test_totals_are_what_rows_add_up_to as test_totals_are_what_rows_add_up_to

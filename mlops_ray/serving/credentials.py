"""Credentials: nothing is served where nobody has any."""

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.development_keys import development_key, is_single_user
from mlops_ray.governance.keys import active_keys, person_named
from mlops_ray.serving.auth import is_public


def with_persons(settings: Settings, store: ControlStore) -> Settings:
    """The settings with the id of each person whom `oidc_people` names by it or by a key of theirs. Raises
    ConfigurationError for one that nobody is: who has the `sub` would pass for somebody else than who has the keys."""
    persons = {}
    with store.reading() as connection:
        for subject, who in settings.oidc_people.items():
            try:
                persons[subject] = person_named(connection, who)
            except ConfigurationError as error:
                raise ConfigurationError(f"oidc_people: {error}") from None
    return settings.model_copy(update={"oidc_people": persons})


def expect_credentials(settings: Settings, store: ControlStore, host: str) -> None:
    """Make the development key where only this machine reaches `host`; elsewhere somebody must have a credential.

    Raises ConfigurationError if nobody has.
    """
    if is_single_user(store, settings) and not is_public(settings, host):
        development_key(store, settings)
        return
    if settings.oidc_issuer:
        return
    if all(principal.development for principal in active_keys(store).values()):
        raise ConfigurationError(
            f"Serving on {host} needs credentials, and there are none but development keys, which count only where "
            f"this machine alone reaches the server and no other key was ever made. Make a key with "
            f"`mlops-ray keys create` or set oidc_issuer, oidc_audience and oidc_keys."
        )

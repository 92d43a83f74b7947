"""Stores that cannot be opened, in a sentence. Imports MLflow only to know its exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.addresses import without_secret
from pipeline.errors import UserError, first_line


@contextmanager
def opening(uri: str) -> Iterator[None]:
    """Have what keeps the store at ``uri`` from being opened said in one sentence, as UserError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except ModuleNotFoundError as error:
        told = f"needs the Python package {error.name}, which is not installed; install it or name another store"
        raise UserError(f"tracking.uri {without_secret(uri)} {told}") from error
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if isinstance(error, MlflowException) and error.error_code == "UNAUTHENTICATED":
            told = "asks who you are; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account of it"
            raise UserError(f"tracking.uri {without_secret(uri)} {told}") from error
        why = without_secret(first_line(error))
        told = f"cannot be used: {why}; start that server, or name another or sqlite:///PATH.db"
        raise UserError(f"tracking.uri {without_secret(uri)} {told}") from error

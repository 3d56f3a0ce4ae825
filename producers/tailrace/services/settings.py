"""The settings of the reference services, from the environment (``TAILRACE_…``)."""

from pathlib import Path

from pydantic import DirectoryPath, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tailrace.producers.settings import state_folder
from tailrace.services.lifecycle import Capacity

__all__ = ["ServicesSettings"]


class ServicesSettings(BaseSettings):
    """What an operator may set. Sizes are bytes, times carry their unit."""

    model_config = SettingsConfigDict(env_prefix="TAILRACE_", frozen=True)

    data_dir: Path = Field(default_factory=state_folder)
    """Folder of the services' databases. One process at a time."""
    ingest_root: DirectoryPath = Field(default_factory=Path.cwd)
    """The only folder whose files may be ingested."""
    ingest_max_bytes: int = Field(default=10 * 1024 * 1024, ge=1)
    """Size of the largest file that is ingested."""
    ingest_index_max_bytes: int = Field(default=1024 * 1024 * 1024, ge=1024 * 1024)
    """Size that the search index may grow to; then jobs fail and say so."""
    ingest_workers: int = Field(default=2, ge=1, le=32)
    """How many ingest jobs run at once."""
    ingest_max_jobs: int = Field(default=100, ge=1, le=10_000)
    """How many ingest jobs wait or run at once; more are refused with 429."""
    ingest_pace_ms: int = Field(default=0, ge=0, le=60_000)
    """Pause after each chunk, so that people can watch a job move. For demonstrations only."""
    agent_workers: int = Field(default=2, ge=1, le=32)
    """How many agent runs are worked on at once."""
    agent_max_runs: int = Field(default=100, ge=1, le=10_000)
    """How many agent runs wait or are worked on at once; more are refused with 429."""
    agent_max_steps: int = Field(default=25, ge=2, le=1000)
    """How many steps an agent run may take; then it fails."""
    chat_model: str | None = None
    """``package.module:factory`` of a LangChain chat model; by default one of rules, offline."""
    workflow_workers: int = Field(default=2, ge=1, le=32)
    """How many workflow runs are worked on at once."""
    workflow_max_runs: int = Field(default=100, ge=1, le=10_000)
    """How many workflow runs wait or are worked on at once; more are refused with 429."""
    graph_pace_ms: int = Field(default=0, ge=0, le=60_000)
    """Pause before each node of an agent or a workflow, on average, and a tenth of it after each
    word of the offline chat model; as `ingest_pace_ms`."""

    @property
    def ingest_capacity(self) -> Capacity:
        """How much the ingest service takes on."""
        return Capacity(self.ingest_workers, self.ingest_max_jobs, self.ingest_pace_ms / 1000)

    @property
    def agent_capacity(self) -> Capacity:
        """How much the agent service takes on."""
        return Capacity(self.agent_workers, self.agent_max_runs, self.graph_pace_ms / 1000)

    @property
    def workflow_capacity(self) -> Capacity:
        """How much the workflow service takes on."""
        return Capacity(self.workflow_workers, self.workflow_max_runs, self.graph_pace_ms / 1000)

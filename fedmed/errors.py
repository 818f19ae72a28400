"""Every error that FedMed raises on purpose, in one tree.

    FedMedError
    ├── SettingsError            params.yaml is not what it should be
    ├── WorkspaceError           a folder is no workspace, or a step before this one has not been done
    ├── DeclarationError         a cohort declaration contradicts itself
    ├── RecordsError             a hospital's table cannot be read as its cohort declares
    ├── SourceError              a public cohort is not known, or cannot be fetched
    │   ├── SourceUnreachable    a host does not answer, or breaks off
    │   └── SourceMismatch       what came, or a local copy, is not what was published
    ├── VaultError
    │   ├── KeyUnavailable       no key, an unreadable one, or one that others can read
    │   └── PartitionDamaged     wrong key, flipped bit or missing file
    ├── ContractError            the contract could not be run (its verdict is no error)
    ├── OutboxDamaged            what a hospital has said is gone, or not what its chain names
    ├── HospitalSilent           a hospital did not answer in time
    ├── SiteFailed               a hospital's own code failed; only the hospital's log says how
    ├── QuorumNotMet             too few hospitals were admitted, or answered
    ├── ExchangeError
    │   ├── MessageMissing       nothing was posted at this address
    │   ├── MessageConflict      other bytes stand at this address already
    │   └── MessageRefused       malformed, oversized, not finite, or of another run or model
    ├── RangeExceeded            an update does not fit the agreed fixed-point range
    ├── RegistryError            the registry refused, or holds no such model
    └── LineageError             DVC could not say what is up to date, or could not record it

A message says what was expected, what came, where, and what to do. No message holds a cell of a patient's record.
"""


class FedMedError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1


class SettingsError(FedMedError):
    """params.yaml has an unknown key or a bad value."""

    exit_code = 2


class WorkspaceError(FedMedError):
    """A folder is no workspace, or a step that must come first has not been done."""

    exit_code = 2


class DeclarationError(FedMedError):
    """A cohort declaration is malformed or contradicts itself."""

    exit_code = 2


class RecordsError(FedMedError):
    """A hospital's table cannot be read as its cohort declares it."""

    exit_code = 3


class SourceError(FedMedError):
    """A public cohort is not known, or cannot be fetched or kept."""

    exit_code = 10


class SourceUnreachable(SourceError):
    """A host does not answer, answers with an error, or breaks off."""


class SourceMismatch(SourceError):
    """A file or a table is not the one that was published."""


class VaultError(FedMedError):
    """Encrypted data could not be opened or written."""

    exit_code = 4


class KeyUnavailable(VaultError):
    """There is no key, it is malformed, or other users of the machine can read it."""


class PartitionDamaged(VaultError):
    """A file does not authenticate under the hospital's key, or is missing."""


class ContractError(FedMedError):
    """The contract could not be run. A contract that fails is a verdict, not an error."""

    exit_code = 3


class OutboxDamaged(FedMedError):
    """A hospital's outbox is not what its chain says: it answers nothing until a person has looked."""

    exit_code = 4


class HospitalSilent(FedMedError):
    """A hospital did not answer by the deadline."""

    exit_code = 5


class SiteFailed(FedMedError):
    """Something unforeseen failed at a hospital. Its message is kept there: it could hold a patient's value."""


class QuorumNotMet(FedMedError):
    """Too few hospitals were admitted or answered for the run to go on."""

    exit_code = 5


class ExchangeError(FedMedError):
    """A message could not be posted or fetched."""

    exit_code = 6


class MessageMissing(ExchangeError):
    """Nothing has been posted at this address."""


class MessageConflict(ExchangeError):
    """Other bytes have been posted at this address already."""


class MessageRefused(ExchangeError):
    """A message is malformed, oversized, not finite, or belongs to another run or model."""


class RangeExceeded(FedMedError):
    """A value does not fit the fixed-point range that the plan agreed on."""

    exit_code = 6


class RegistryError(FedMedError):
    """The model registry refused, or does not hold what was asked for."""

    exit_code = 7


class LineageError(FedMedError):
    """DVC could not say what is up to date, or could not record it."""

    exit_code = 8

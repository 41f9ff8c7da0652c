"""The operations of a plan: each a frozen record that can encode itself for the executor and describe itself to a person.

The numbers in `code` are the executor's (`hutch.plan.numbers`). Every operation carries `origin`, the place in the
configuration that it comes from, such as ``mounts[3]``. What is known only when the plan runs is a `Slot`: a name that one
operation assigns and later ones use.
"""

from __future__ import annotations

from hutch.plan.operation import (
    ATIME_MASK as ATIME_MASK,
    ATTRIBUTES as ATTRIBUTES,
    MS_REC as MS_REC,
    NAMESPACES as NAMESPACES,
    NOSYMFOLLOW as NOSYMFOLLOW,
    PROPAGATION as PROPAGATION,
    RESOLVE_BENEATH as RESOLVE_BENEATH,
    RESOLVE_IN_ROOT as RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS as RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS as RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV as RESOLVE_NO_XDEV,
    Operation as Operation,
    Slot as Slot,
    attribute_names as attribute_names,
    namespace_names as namespace_names,
    slot as slot,
)
from hutch.plan.ops.host import (
    CheckRoom as CheckRoom,
    Clone as Clone,
    DeviceProgram as DeviceProgram,
    EnterUserNetwork as EnterUserNetwork,
    HoldLayer as HoldLayer,
    HostDirectory as HostDirectory,
    HostRecord as HostRecord,
    HostWrite as HostWrite,
    MakeUserNamespace as MakeUserNamespace,
    MapHelper as MapHelper,
    OpenNamespace as OpenNamespace,
    ProcWrite as ProcWrite,
    Reserve as Reserve,
    TakeOver as TakeOver,
)
from hutch.plan.ops.lifecycle import (
    AwaitStart as AwaitStart,
    Netlink as Netlink,
    Respawn as Respawn,
    RunHook as RunHook,
)
from hutch.plan.ops.machine import (
    Beside as Beside,
    Detach as Detach,
    Listen as Listen,
    Machine as Machine,
    Memory as Memory,
    Remote as Remote,
    SocketPair as SocketPair,
    Tap as Tap,
)
from hutch.plan.ops.mounts import (
    Attach as Attach,
    ChangeRoot as ChangeRoot,
    CopyUp as CopyUp,
    Mask as Mask,
    Pivot as Pivot,
    Propagation as Propagation,
    ReadOnly as ReadOnly,
    SetAttributes as SetAttributes,
)
from hutch.plan.ops.process import (
    Affinity as Affinity,
    ChangeDirectory as ChangeDirectory,
    CloneInside as CloneInside,
    CloseDescriptors as CloseDescriptors,
    ControllingTerminal as ControllingTerminal,
    DomainName as DomainName,
    EnterCgroup as EnterCgroup,
    Execute as Execute,
    FindProgram as FindProgram,
    Home as Home,
    Hostname as Hostname,
    Init as Init,
    IoPriority as IoPriority,
    Loopback as Loopback,
    MemoryPolicy as MemoryPolicy,
    NewSession as NewSession,
    OwnStdio as OwnStdio,
    ParentDeath as ParentDeath,
    Personality as Personality,
    Scheduler as Scheduler,
    Stdio as Stdio,
    Terminal as Terminal,
    Unshare as Unshare,
    WriteAt as WriteAt,
)
from hutch.plan.ops.rights import (
    Capabilities as Capabilities,
    Keyring as Keyring,
    NoNewPrivileges as NoNewPrivileges,
    Protect as Protect,
    Seccomp as Seccomp,
    SetIds as SetIds,
    Umask as Umask,
)
from hutch.plan.ops.shared import (
    NODE_TYPES as NODE_TYPES,
    RLIMITS as RLIMITS,
    Join as Join,
    MakeDirectory as MakeDirectory,
    MakeFile as MakeFile,
    MakeFilesystem as MakeFilesystem,
    MakeNode as MakeNode,
    MakeSymlink as MakeSymlink,
    Open as Open,
    OpenAt as OpenAt,
    OpenTree as OpenTree,
    Pipe as Pipe,
    ResourceLimit as ResourceLimit,
    SetXattr as SetXattr,
    Signal as Signal,
    Wait as Wait,
    device_number as device_number,
)
from hutch.plan.ops.supervise import (
    CallOwner as CallOwner,
    ExitFile as ExitFile,
    Export as Export,
    HoldShared as HoldShared,
    HostWritePid as HostWritePid,
    Inherit as Inherit,
    KillAtExit as KillAtExit,
    Log as Log,
    Publish as Publish,
    ReadAtExit as ReadAtExit,
    ReturnDevice as ReturnDevice,
    TakeDescriptor as TakeDescriptor,
    Watch as Watch,
    WritePid as WritePid,
)

//! Open files: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process holds open beside its connections: model, sessions, policies, log.
const OTHERS: u64 = 256;

/// Raises the limit as far as so many connections need and the operating system allows. Without
/// them newcomers would wait in the kernel's queue where they should be refused.
pub fn allow(connections: u32) {
    let needed = u64::from(connections) + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|files| files >= needed) {
        return;
    }
    let most = limit.maximum.map_or(needed, |most| most.min(needed));
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    let done = setrlimit(Resource::Nofile, raised).is_ok();
    if !done || most < needed {
        tracing::warn!(
            files = most,
            needed,
            "fewer files may be open than server.max_connections needs (systemd: LimitNOFILE)"
        );
    }
}

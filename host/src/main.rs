//! Only the hidden probe of CPU code so far.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match (args.next(), args.next()) {
        (Some(command), Some(file)) if command == stent::engine::cpu::PROBE_COMMAND => {
            stent::engine::cpu::probe_child_main(Path::new(&file))
        }
        _ => ExitCode::FAILURE,
    }
}

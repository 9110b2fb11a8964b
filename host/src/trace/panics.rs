//! A panic becomes a line of the log that says where, and not always what: Rust's own messages quote
//! the text that was cut at the wrong place.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic;

/// From here on panics are told in the log instead of on standard error.
pub(super) fn into_log() {
    panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        // Names of functions; there where RUST_BACKTRACE asks for them.
        let trace = Backtrace::capture();
        let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
        tracing::error!(
            at,
            thread = thread.name(),
            why = words(panic.payload()),
            backtrace = trace,
            "a panic: this is a mistake in Stent, please report it"
        );
    }));
}

/// What the source says. A message that was put together may hold what somebody wrote.
fn words(payload: &dyn Any) -> &'static str {
    let literal = payload.downcast_ref::<&'static str>();
    literal
        .copied()
        .unwrap_or("(withheld: it may quote a text)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_was_cut_wrongly_is_not_quoted() {
        let text = String::from("\u{e9} canary-90d1");
        let cut = panic::catch_unwind(|| text[1..].len()).unwrap_err();
        let quoted = cut.downcast_ref::<String>().unwrap();
        assert!(quoted.contains("canary-90d1"), "{quoted}");
        assert!(!words(&*cut).contains("canary"), "{}", words(&*cut));
        let known = panic::catch_unwind(|| panic!("the books are wrong")).unwrap_err();
        assert_eq!(words(&*known), "the books are wrong");
    }
}

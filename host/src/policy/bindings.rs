//! The contract in Rust: one module for each released version, all sharing the host's types.
//!
//! The world below exports every hook, but each hook's indices are looked up on their own, so a
//! component needs to export only what it serves.

pub(super) mod v0_1 {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package stent:gateway;
            world every-hook {
                include stent:policy/guarding@0.1.0;
                include stent:policy/trim@0.1.0;
                include stent:policy/prompt@0.1.0;
                include stent:policy/caching@0.1.0;
                include stent:policy/filtering@0.1.0;
            }
        ",
        world: "stent:gateway/every-hook",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "stent:policy/request.request": crate::policy::host::RequestHandle,
            "stent:policy/request.transcript": crate::policy::host::TranscriptHandle,
            "stent:policy/request.answer": crate::policy::host::AnswerHandle,
        },
    });

    /// The version as it stands in the names of exports and imports.
    pub const VERSION: &str = "0.1.0";
}

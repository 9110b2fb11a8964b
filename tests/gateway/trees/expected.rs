//! The traces as `draw` draws them: a line for each span, `!` before an event, `->` before a link.

/// A fresh answer, with everything that is told.
pub const OK: &str = r#"POST /chat/stream SERVER http.request.method="POST" http.response.status_code=200 http.route="/chat/stream" stent.outcome="ok" stent.policy.generation=1
  ! first_byte
  admission INTERNAL stent.queue.depth=0 stent.queue.position=0
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="miss" stent.cache.store="memory"
  cache.store INTERNAL stent.cache.bytes=64 stent.cache.store="memory"
  chat scripted INTERNAL gen_ai.operation.name="chat" gen_ai.provider.name="llama_cpp" gen_ai.request.frequency_penalty=0.0 gen_ai.request.max_tokens=1024 gen_ai.request.model="scripted" gen_ai.request.presence_penalty=0.0 gen_ai.request.seed="*" gen_ai.request.temperature=0.7 gen_ai.request.top_k=40 gen_ai.request.top_p=0.95 gen_ai.response.finish_reasons=["stop"] gen_ai.response.model="scripted" gen_ai.usage.cache_read.input_tokens=0 gen_ai.usage.input_tokens=32 gen_ai.usage.output_tokens=12 stent.seed.source="derived" stent.slot=0
    ! first_token stent.slot=0
    decode INTERNAL stent.slot=0 stent.tokens.output=12 stent.tokens.per_second="*"
    prefill INTERNAL stent.slot=0 stent.tokens.prompt=32 stent.tokens.reused=0
  policy build INTERNAL stent.policy.duration_us="*" stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.memory_peak="*" stent.policy.name="prompt-mistral" stent.policy.outcome="ok" stent.policy.sha256="*" stent.policy.version="0.1.0"
  policy cache.admit INTERNAL stent.policy.duration_us="*" stent.policy.generation=1 stent.policy.hook="cache" stent.policy.memory_peak="*" stent.policy.name="cache-exact" stent.policy.outcome="ok" stent.policy.sha256="*" stent.policy.version="0.1.0"
  policy cache.decide INTERNAL stent.policy.duration_us="*" stent.policy.generation=1 stent.policy.hook="cache" stent.policy.memory_peak="*" stent.policy.name="cache-exact" stent.policy.outcome="ok" stent.policy.sha256="*" stent.policy.version="0.1.0"
  policy layout INTERNAL stent.policy.duration_us="*" stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.memory_peak="*" stent.policy.name="prompt-mistral" stent.policy.outcome="ok" stent.policy.sha256="*" stent.policy.version="0.1.0"
  policy trim INTERNAL stent.policy.duration_us="*" stent.policy.generation=1 stent.policy.hook="trim" stent.policy.memory_peak="*" stent.policy.name="trim-exchanges" stent.policy.outcome="ok" stent.policy.sha256="*" stent.policy.version="0.1.0"
  queue.wait INTERNAL
  session.append INTERNAL stent.session.store="redb" stent.session.turns=1
  session.load INTERNAL stent.session.store="redb" stent.session.turns=0
"#;

/// The same question once more.
pub const CACHED: &str = r#"POST /chat/stream SERVER http.response.status_code=200 http.route="/chat/stream" stent.outcome="cached" stent.policy.generation=1
  ! first_byte
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="hit" stent.cache.store="memory"
  policy build INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=1 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=1 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  session.append INTERNAL
  session.load INTERNAL
"#;

pub const COALESCED: &str = r#"POST /chat/stream SERVER http.response.status_code=200 http.route="/chat/stream" stent.outcome="coalesced" stent.policy.generation=1
  ! first_byte
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  coalesce.wait INTERNAL
    -> another trace
  policy build INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=1 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=1 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  session.append INTERNAL
  session.load INTERNAL
"#;

pub const LEADER: &str = r#"POST /chat/stream SERVER http.response.status_code=200 http.route="/chat/stream" stent.outcome="ok" stent.policy.generation=1
  ! first_byte
  admission INTERNAL stent.queue.depth=0 stent.queue.position=0
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  chat scripted INTERNAL gen_ai.response.finish_reasons=["stop"] stent.seed.source="derived" stent.slot=0
    ! first_token stent.slot=0
    decode INTERNAL stent.slot=0
    prefill INTERNAL stent.slot=0
  policy build INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=1 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=1 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  queue.wait INTERNAL
  session.append INTERNAL
  session.load INTERNAL
"#;

pub const REPLIED: &str = r#"POST /chat/stream SERVER http.response.status_code=200 http.route="/chat/stream" stent.outcome="blocked" stent.policy.generation=2
  ! first_byte
  policy guard INTERNAL stent.policy.generation=2 stent.policy.hook="guard" stent.policy.name="stern" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  session.append INTERNAL
  session.load INTERNAL
"#;

pub const REFUSED: &str = r#"POST /chat/stream SERVER http.response.status_code=422 http.route="/chat/stream" stent.outcome="blocked" stent.policy.generation=2
  policy guard INTERNAL stent.policy.generation=2 stent.policy.hook="guard" stent.policy.name="stern" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  session.load INTERNAL
"#;

pub const OVERLOADED: &str = r#"POST /chat/stream SERVER http.response.status_code=429 http.route="/chat/stream" stent.outcome="overloaded" stent.policy.generation=1
  admission INTERNAL FAILED error.type="overloaded" stent.queue.depth=2
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  policy build INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=1 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=1 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  session.load INTERNAL
"#;

pub const LEFT_EARLY: &str = r#"POST /chat/stream SERVER http.response.status_code=200 http.route="/chat/stream" stent.outcome="cancelled" stent.policy.generation=1
  ! client_disconnected
  admission INTERNAL stent.queue.depth=1 stent.queue.position=1
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  chat scripted INTERNAL gen_ai.response.finish_reasons=["cancelled"] stent.seed.source="derived"
  policy build INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=1 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=1 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  queue.wait INTERNAL
  session.load INTERNAL
"#;

pub const LEFT_LATE: &str = r#"POST /chat/stream SERVER http.response.status_code=200 http.route="/chat/stream" stent.outcome="cancelled" stent.policy.generation=1
  ! first_byte
  ! client_disconnected
  admission INTERNAL stent.queue.depth=0 stent.queue.position=0
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  chat scripted INTERNAL gen_ai.response.finish_reasons=["cancelled"] stent.seed.source="derived" stent.slot=0
    ! first_token stent.slot=0
    decode INTERNAL stent.slot=0
    prefill INTERNAL stent.slot=0
  policy build INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=1 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=1 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  queue.wait INTERNAL
  session.load INTERNAL
"#;

pub const FAILED: &str = r#"POST /chat/stream SERVER FAILED error.type="engine_error" http.response.status_code=200 http.route="/chat/stream" stent.outcome="error" stent.policy.generation=1
  admission INTERNAL stent.queue.depth=0 stent.queue.position=0
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  chat scripted INTERNAL FAILED error.type="engine" stent.seed.source="derived" stent.slot=0
    prefill INTERNAL FAILED error.type="stalled" stent.slot=0
  policy build INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=1 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=1 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=1 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  queue.wait INTERNAL
  session.load INTERNAL
"#;

pub const OPEN: &str = r#"POST /chat/stream SERVER http.response.status_code=200 http.route="/chat/stream" stent.outcome="ok" stent.policy.generation=2
  ! policy_fault error.type="trap" stent.policy.fail="open" stent.policy.hook="trim"
  ! first_byte
  admission INTERNAL stent.queue.depth=0 stent.queue.position=0
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  chat scripted INTERNAL gen_ai.response.finish_reasons=["stop"] stent.seed.source="derived" stent.slot=0
    ! first_token stent.slot=0
    decode INTERNAL stent.slot=0
    prefill INTERNAL stent.slot=0
  policy build INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=2 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL FAILED error.type="trap" stent.policy.generation=2 stent.policy.hook="trim" stent.policy.name="bad" stent.policy.outcome="trap"
  queue.wait INTERNAL
  session.append INTERNAL
  session.load INTERNAL
"#;

pub const CLOSED: &str = r#"POST /chat/stream SERVER FAILED error.type="policy_fault" http.response.status_code=503 http.route="/chat/stream" stent.outcome="error" stent.policy.generation=2
  ! policy_fault error.type="trap" stent.policy.fail="closed" stent.policy.hook="trim"
  policy cache.decide INTERNAL stent.policy.generation=2 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy layout INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL FAILED error.type="trap" stent.policy.generation=2 stent.policy.hook="trim" stent.policy.name="bad" stent.policy.outcome="trap"
  session.load INTERNAL
"#;

pub const FILTER_OPEN: &str = r#"POST /chat/stream SERVER http.response.status_code=200 http.route="/chat/stream" stent.outcome="ok" stent.policy.generation=2
  ! policy_fault error.type="trap" stent.policy.fail="open" stent.policy.hook="filter"
  ! first_byte
  admission INTERNAL stent.queue.depth=0 stent.queue.position=0
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  chat scripted INTERNAL gen_ai.response.finish_reasons=["stop"] stent.seed.source="derived" stent.slot=0
    ! first_token stent.slot=0
    decode INTERNAL stent.slot=0
    prefill INTERNAL stent.slot=0
  policy build INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=2 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy filter INTERNAL FAILED error.type="trap" stent.policy.generation=2 stent.policy.hook="filter" stent.policy.name="bad" stent.policy.outcome="trap"
  policy layout INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=2 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  queue.wait INTERNAL
  session.append INTERNAL
  session.load INTERNAL
"#;

pub const FILTER_CLOSED: &str = r#"POST /chat/stream SERVER FAILED error.type="policy_fault" http.response.status_code=200 http.route="/chat/stream" stent.outcome="error" stent.policy.generation=2
  ! policy_fault error.type="trap" stent.policy.fail="closed" stent.policy.hook="filter"
  admission INTERNAL stent.queue.depth=0 stent.queue.position=0
  cache.lookup INTERNAL stent.cache.key="exact" stent.cache.result="bypass" stent.cache.store="off"
  chat scripted INTERNAL gen_ai.response.finish_reasons=["cancelled"] stent.seed.source="derived" stent.slot=0
    ! first_token stent.slot=0
    decode INTERNAL stent.slot=0
    prefill INTERNAL stent.slot=0
  policy build INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy cache.decide INTERNAL stent.policy.generation=2 stent.policy.hook="cache" stent.policy.name="cache-exact" stent.policy.outcome="ok"
  policy filter INTERNAL FAILED error.type="trap" stent.policy.generation=2 stent.policy.hook="filter" stent.policy.name="bad" stent.policy.outcome="trap"
  policy layout INTERNAL stent.policy.generation=2 stent.policy.hook="prompt" stent.policy.name="prompt-mistral" stent.policy.outcome="ok"
  policy trim INTERNAL stent.policy.generation=2 stent.policy.hook="trim" stent.policy.name="trim-exchanges" stent.policy.outcome="ok"
  queue.wait INTERNAL
  session.load INTERNAL
"#;

//! What the scheduler promises, one example each, with a step's times as they were measured.

use super::*;
use crate::engine::scheduler::plan::Sample;

fn limits() -> Limits {
    Limits {
        slots: 4,
        context: 4096,
        cells: 16_384,
        idle_sessions: 8,
        park_bytes: 0,
        token_bytes: 1,
        max_rows: 2048,
        max_chunk: 512,
        group: GROUP,
        budget: None,
        speculation: false,
    }
}

fn request(id: JobId, who: u8, len: usize, max_tokens: usize) -> Request {
    let base = Token::from(who) * 10_000;
    let prompt = (0..len as Token).map(|i| base + i).collect();
    Request {
        id,
        tenant: tenant(who),
        session: session(who),
        prompt,
        head: 0,
        max_tokens,
    }
}

/// Milliseconds of a step, as measured on a 7B shape.
fn step_time(rows: usize) -> Duration {
    let ms = match rows {
        1 => 66,
        2 => 108,
        3 => 137,
        4 => 109,
        n if n <= 131 => 48 + 15 * n as u64,
        n => 12 * n as u64,
    };
    Duration::from_millis(ms)
}

/// Runs one step with a drawn token for every sample; returns its rows and its length.
fn run(scheduler: &mut Scheduler, now: &mut Time) -> (Vec<Row>, Vec<Sample>, Duration) {
    let plan = scheduler.plan(*now);
    let took = step_time(plan.rows.len());
    *now += took;
    let drawn: Vec<_> = plan
        .samples
        .iter()
        .map(|_| Drawn {
            tokens: vec![9],
            end: false,
        })
        .collect();
    let (rows, samples) = (plan.rows.clone(), plan.samples.clone());
    scheduler.complete(plan, &drawn, took, *now);
    (rows, samples, took)
}

#[test]
fn a_long_prompt_does_not_freeze_the_answers() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    for who in 1..4 {
        scheduler.submit(request(who.into(), who, 30, 400), now);
    }
    for _ in 0..20 {
        run(&mut scheduler, &mut now);
    }
    scheduler.submit(request(9, 5, 1300, 50), now);
    let begun = now;
    let mut worst = Duration::ZERO;
    while scheduler.doing(3) != Doing::Decode {
        let (_, samples, took) = run(&mut scheduler, &mut now);
        assert!(samples.len() >= 3, "all three answers go on in every step");
        worst = worst.max(took);
    }
    assert!(worst <= Duration::from_millis(480), "{worst:?}");
    assert!(now - begun < Duration::from_secs(30), "{:?}", now - begun);
}

#[test]
fn three_answers_are_padded_once_that_is_known_to_pay() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    for who in 1..4 {
        scheduler.submit(request(who.into(), who, 30, 400), now);
    }
    for _ in 0..30 {
        run(&mut scheduler, &mut now);
    }
    assert_eq!(run(&mut scheduler, &mut now).0.len(), 4);
}

#[test]
fn a_short_prompt_overtakes_a_long_one_that_is_being_computed() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    scheduler.submit(request(1, 1, 2000, 10), now);
    run(&mut scheduler, &mut now);
    scheduler.submit(request(2, 5, 20, 10), now);
    run(&mut scheduler, &mut now);
    assert_eq!(scheduler.doing(1), Doing::Decode);
    assert_eq!(scheduler.doing(0), Doing::Prefill);
}

#[test]
fn a_session_that_comes_back_computes_only_what_is_new() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    scheduler.submit(request(1, 1, 100, 5), now);
    while scheduler.has_work() {
        run(&mut scheduler, &mut now);
    }
    scheduler.submit(request(2, 1, 130, 5), now);
    let plan = scheduler.plan(now);
    assert_eq!(plan.started[0].cached, 100);
    assert_eq!(plan.rows.len(), 30);
    // Another session with the very same text gets nothing of it.
    let mut other = request(3, 5, 0, 5);
    other.prompt = request(1, 1, 100, 5).prompt;
    scheduler.submit(other, now);
    assert_eq!(scheduler.plan(now).started[0].cached, 0);
}

#[test]
fn a_gap_is_used_for_the_next_turn_and_given_up_at_once() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    let next = request(0, 1, 300, 1).prompt;
    scheduler.prepare(session(1).unwrap(), Arc::clone(&next), now);
    let (rows, samples, _) = run(&mut scheduler, &mut now);
    assert!(samples.is_empty() && !rows.is_empty());
    scheduler.submit(request(7, 5, 40, 1), now);
    let plan = scheduler.plan(now);
    assert_eq!(
        plan.rows.len(),
        40,
        "nothing is computed ahead while a request waits"
    );
    scheduler.complete(
        plan,
        &[Drawn {
            tokens: vec![9],
            end: true,
        }],
        step_time(40),
        now,
    );
    while scheduler.has_work() {
        run(&mut scheduler, &mut now);
    }
    scheduler.submit(request(8, 1, 320, 1), now);
    assert_eq!(scheduler.plan(now).started[0].cached, 300);
}

#[test]
fn room_is_made_session_by_session_while_answers_stream() {
    let mut scheduler = Scheduler::new(Limits {
        cells: 6000,
        park_bytes: 1 << 20,
        ..limits()
    });
    let mut now = Time::ZERO;
    for idle in 0..5 {
        let mut request = request(idle, 1, 1000, 1);
        let session = SessionId::parse(&format!("idle{idle}")).unwrap();
        let tenant = tenant(1);
        request.session = Some(SessionKey { tenant, session });
        scheduler.submit(request, now);
        while scheduler.has_work() {
            run(&mut scheduler, &mut now);
        }
    }
    let parks = |plan: &Plan| {
        let park = |op: &&Op| matches!(op, Op::Park { .. });
        plan.ops.iter().filter(park).count()
    };
    scheduler.submit(request(10, 2, 30, 400), now);
    while scheduler.doing(0) != Doing::Decode {
        run(&mut scheduler, &mut now);
    }
    scheduler.submit(request(11, 3, 3000, 1000), now);
    let mut all = 0;
    while scheduler.queued() > 0 {
        let plan = scheduler.plan(now);
        assert!(parks(&plan) <= 1 && plan.samples.len() == 1);
        all += parks(&plan);
        let drawn = Drawn {
            tokens: vec![9],
            end: false,
        };
        scheduler.complete(plan, &[drawn], step_time(1), now);
    }
    assert!(all >= 3, "{all} sessions made room");
}

#[test]
fn a_prompt_is_read_beside_however_many_answers() {
    let mut scheduler = Scheduler::new(Limits {
        slots: 20,
        cells: 65_536,
        ..limits()
    });
    let mut now = Time::ZERO;
    for id in 0..17 {
        let mut request = request(id, 0, 30, 1000);
        request.prompt = (0..30).map(|i| id as Token * 100 + i).collect();
        scheduler.submit(request, now);
    }
    while scheduler.doing(16) != Doing::Decode {
        run(&mut scheduler, &mut now);
    }
    scheduler.submit(request(99, 0, 300, 10), now);
    let begun = now;
    while scheduler.doing(17) != Doing::Decode {
        let (rows, ..) = run(&mut scheduler, &mut now);
        assert!(rows.len() > 17, "the prompt gets no row");
    }
    assert!(now - begun < Duration::from_secs(30), "{:?}", now - begun);
}

#[test]
fn what_a_session_has_never_keeps_it_from_its_own_turn() {
    let mut scheduler = Scheduler::new(Limits {
        slots: 1,
        context: 64,
        cells: 64 + GROUP as u32 - 1,
        park_bytes: 1 << 20,
        ..limits()
    });
    let mut now = Time::ZERO;
    let mut first = request(1, 1, 40, 4);
    first.head = 20;
    scheduler.submit(first, now);
    while scheduler.has_work() {
        run(&mut scheduler, &mut now);
    }
    // The system text was changed: one token is as before.
    let mut second = request(2, 1, 40, 24);
    second.prompt = std::iter::once(10_000).chain(500..539).collect();
    scheduler.submit(second, now);
    let plan = scheduler.plan(now);
    assert_eq!(plan.started.len(), 1, "it waits for ever");
}

#[test]
fn hints_are_few_and_never_touch_a_session_that_is_answered() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    scheduler.submit(request(1, 1, 100, 400), now);
    run(&mut scheduler, &mut now);
    // What is there already has nothing to compute; the other one's session is busy.
    scheduler.submit(request(2, 2, 60, 1), now);
    run(&mut scheduler, &mut now);
    while scheduler.doing(1) != Doing::Idle || scheduler.doing(0) != Doing::Decode {
        run(&mut scheduler, &mut now);
    }
    scheduler.prepare(session(2).unwrap(), request(2, 2, 60, 1).prompt, now);
    scheduler.prepare(session(1).unwrap(), request(1, 1, 90, 1).prompt, now);
    let (rows, ..) = run(&mut scheduler, &mut now);
    assert_eq!(
        rows.len(),
        1,
        "nothing is computed ahead for who is answered"
    );
    for n in 0..1000 {
        let session = SessionId::parse(&format!("n{n}")).unwrap();
        let tenant = tenant(1);
        let tokens = request(3, 3, 50, 1).prompt;
        scheduler.prepare(SessionKey { tenant, session }, tokens, now);
    }
    assert_eq!(scheduler.ahead.len(), 8);
}

#[test]
fn the_common_head_is_stored_once() {
    let mut scheduler = Scheduler::new(limits());
    let mut now = Time::ZERO;
    let with_head = |id, who: u8| {
        let mut tokens: Vec<Token> = (0..200).collect();
        tokens.extend((0..20).map(|i| Token::from(who) * 1000 + i));
        Request {
            id,
            tenant: tenant(who),
            session: session(who),
            prompt: tokens.into(),
            head: 200,
            max_tokens: 4,
        }
    };
    for who in 1..8 {
        scheduler.submit(with_head(who.into(), who), now);
        while scheduler.has_work() {
            run(&mut scheduler, &mut now);
        }
    }
    let used = scheduler.cells_used();
    assert_eq!(
        used,
        200 + 7 * 23,
        "the last drawn token of an answer is never computed"
    );
}

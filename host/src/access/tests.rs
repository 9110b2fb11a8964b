use super::*;

fn access(keys: &[(&str, &str)], limits: Limits, admin: &str) -> Access {
    let key = |(tenant, key): &(&str, &str)| Key {
        tenant: (*tenant).to_owned(),
        sha256: Digest::of(key).to_string(),
    };
    let keys: Vec<_> = keys.iter().map(key).collect();
    check(&keys, &BTreeMap::new(), admin).unwrap();
    Access::new(&keys, limits, &BTreeMap::new(), admin)
}

#[test]
fn a_key_opens_for_its_own_tenant() {
    let access = access(
        &[("a", "one"), ("b", "two"), ("a", "three")],
        Limits::default(),
        "",
    );
    let whose = |header: Option<&str>| {
        let visitor = access.visitor(header);
        visitor
            .map(|tenant| tenant.id().to_string())
            .map_err(|denied| denied.to_string())
    };
    assert_eq!(whose(Some("Bearer one")).unwrap(), "a");
    assert_eq!(whose(Some("bearer  two")).unwrap(), "b");
    assert_eq!(whose(Some("Bearer three")).unwrap(), "a");
    for unknown in ["Bearer on", "Bearer onee", "Bearer ONE"] {
        assert_eq!(
            whose(Some(unknown)).unwrap_err(),
            "the API key is not known"
        );
    }
    for none in [
        None,
        Some(""),
        Some("one"),
        Some("Bearer "),
        Some("Basic b25lOm9uZQ=="),
    ] {
        assert!(
            whose(none)
                .unwrap_err()
                .contains("Authorization: Bearer KEY")
        );
    }
}

#[test]
fn without_keys_everybody_is_the_default_tenant() {
    let access = access(&[], Limits::default(), "");
    for header in [None, Some("Bearer whatever")] {
        assert_eq!(*access.visitor(header).unwrap().id(), TenantId::default());
    }
}

#[test]
fn the_admin_token_comes_as_bearer_or_as_a_password() {
    let digest = Digest::of("secret").to_string();
    let locked = access(&[], Limits::default(), &digest);
    assert!(locked.admin(Some("Bearer secret")).is_ok());
    // base64 of "prometheus:secret"
    assert!(locked.admin(Some("Basic cHJvbWV0aGV1czpzZWNyZXQ=")).is_ok());
    assert!(matches!(locked.admin(None), Err(Denied::NoToken)));
    assert!(matches!(
        locked.admin(Some("Basic ?")),
        Err(Denied::NoToken)
    ));
    assert!(matches!(
        locked.admin(Some("Bearer x")),
        Err(Denied::WrongToken)
    ));
    assert!(access(&[], Limits::default(), "").admin(None).is_ok());
}

#[test]
fn places_come_back_and_the_rate_does_not() {
    let limits = Limits {
        per_minute: 2,
        burst: 0,
        concurrent: 1,
    };
    let access = access(&[], limits, "");
    let tenant = access.visitor(None).unwrap();
    let first = tenant.enter().unwrap();
    let copy = first.clone();
    drop(first);
    assert!(matches!(
        tenant.enter(),
        Err(Denied::Concurrent { limit: 1 })
    ));
    drop(copy);
    drop(tenant.enter().unwrap());
    let Err(Denied::Rate {
        per_minute: 2,
        wait,
    }) = tenant.enter()
    else {
        panic!("the third request of a minute came in");
    };
    assert!(
        wait > Duration::from_secs(1) && wait <= Duration::from_secs(30),
        "{wait:?}"
    );
}

#[test]
fn settings_that_cannot_work_are_named() {
    let key = |tenant: &str, sha256: &str| Key {
        tenant: tenant.into(),
        sha256: sha256.into(),
    };
    let good = Digest::of("x").to_string();
    let told = |keys: &[Key], tenants: &[&str], admin: &str| {
        let tenants = tenants
            .iter()
            .map(|name| ((*name).to_owned(), Limits::default()));
        check(keys, &tenants.collect(), admin).unwrap_err()
    };
    assert!(told(&[key("a b", &good)], &[], "").starts_with("server.keys[0].tenant: \"a b\""));
    assert!(told(&[key("a", "12")], &[], "").starts_with("server.keys[0].sha256: 2 characters"));
    let twice = told(&[key("a", &good), key("b", &good.to_uppercase())], &[], "");
    assert!(
        twice.starts_with("server.keys[1].sha256: the same as server.keys[0]"),
        "{twice}"
    );
    let nobody = told(&[key("a", &good)], &["b"], "");
    assert!(nobody.starts_with("server.tenants.b: no key"), "{nobody}");
    assert!(told(&[], &[], "secret").starts_with("server.admin_token: 6 characters"));
    // A key that was put where its digest belongs is not repeated.
    assert!(!told(&[key("a", "stent_secret")], &[], "").contains("secret_"));
}

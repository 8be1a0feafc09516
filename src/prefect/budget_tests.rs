use uuid::Uuid;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const REFUSED: ErrorKind = ErrorKind::Unreachable { hint: None };

fn url(text: &str) -> ApiUrl {
    ApiUrl::parse(text, None, None).unwrap()
}

fn rate(requests: u32) -> NonZeroU32 {
    NonZeroU32::new(requests).unwrap()
}

fn limits(requests: u32, interval: Duration) -> Limits {
    Limits { rate: rate(requests), interval, binding: false }
}

fn budget(requests: u32) -> (Budgets, Budget) {
    let budgets = Budgets::default();
    let budget = budgets.budget(&url("http://prefect:4200/api"), limits(requests, HOUR));
    (budgets, budget)
}

async fn spend(budget: &Budget, count: u32) -> Duration {
    let since = Instant::now();
    for _ in 0..count {
        budget.acquire(Lane::Foreground).await.ok().unwrap().report(&Outcome::Answered("ok"));
    }
    since.elapsed()
}

async fn fail(budget: &Budget) {
    budget.acquire(Lane::Foreground).await.ok().unwrap().report(&Outcome::Dead(REFUSED, "unreachable"));
}

async fn refusal(budget: &Budget) -> Option<Refused> {
    budget.acquire(Lane::Foreground).await.err()
}

#[tokio::test(start_paused = true)]
async fn one_of_those_who_share_a_host_slows_nobody_where_a_rate_is_set_for_all() {
    let (budgets, _one) = budget(6);
    let binding = Limits { binding: true, ..limits(6000, HOUR) };
    let all = budgets.budget(&url("http://prefect:4200/api"), binding);
    assert!(spend(&all, 100).await < Duration::from_secs(1), "the one who asks for 6 a minute is one of them");
    drop(all);
    let other = budgets.budget(&url("http://prefect:4200/api"), limits(6000, HOUR));
    assert!(spend(&other, 12).await > Duration::from_secs(50), "nobody decides any more: the lowest holds");
}

#[tokio::test(start_paused = true)]
async fn a_minutes_worth_may_be_spent_at_once_and_then_the_rate_holds() {
    let (_budgets, budget) = budget(60);
    assert_eq!(spend(&budget, 60).await, Duration::ZERO);
    let more = spend(&budget, 10).await;
    assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&more), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn the_lowest_rate_of_all_who_share_the_host_holds_while_they_do() {
    let (budgets, fast) = budget(6000);
    let slow = budgets.budget(&url("http://prefect:4200/api/"), limits(6, HOUR));
    let elsewhere = budgets.budget(&url("http://prefect:4201/api"), limits(6000, HOUR));
    spend(&slow, 6).await;
    assert!(spend(&fast, 1).await > Duration::from_secs(5), "it shares the other's budget");
    assert_eq!(spend(&elsewhere, 100).await, Duration::ZERO);
    drop(slow);
    assert!(spend(&fast, 100).await < Duration::from_secs(2), "the slow one is gone");
}

#[tokio::test(start_paused = true)]
async fn accounts_of_prefect_cloud_have_budgets_of_their_own() {
    let budgets = Budgets::default();
    let of = |account: &str| {
        let id = |n| Uuid::from_u128(n).to_string();
        let address = format!("https://api.prefect.cloud/api/accounts/{account}/workspaces/{}", id(9));
        budgets.budget(&url(&address), limits(6, HOUR))
    };
    let [one, two] = [1, 2].map(|n| of(&Uuid::from_u128(n).to_string()));
    spend(&one, 6).await;
    assert_eq!(spend(&two, 6).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_is_waited_for_and_a_long_one_is_the_callers() {
    let (budgets, budget) = budget(6000);
    let throttled = |seconds| Outcome::Pause(Some(Duration::from_secs(seconds)));
    budget.acquire(Lane::Foreground).await.ok().unwrap().report(&throttled(2));
    let other = budgets.budget(&url("http://prefect:4200/api"), limits(6000, HOUR));
    assert_eq!(spend(&other, 1).await.as_secs(), 2, "the host paused all");
    budget.acquire(Lane::Foreground).await.ok().unwrap().report(&throttled(30));
    let refused = refusal(&other).await.unwrap();
    assert_eq!((refused.kind, refused.left.as_secs()), (ErrorKind::Throttled, 30));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(spend(&other, 1).await, Duration::ZERO);
    budget.acquire(Lane::Foreground).await.ok().unwrap().report(&throttled(u64::MAX));
    assert_eq!(refusal(&other).await.unwrap().left, LONGEST_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_pause_costs_no_requests_of_the_rate_and_who_waits_hears_of_a_death() {
    let (_budgets, budget) = budget(6);
    spend(&budget, 4).await;
    let wait = |budget: &Budget| {
        tokio::spawn({
            let budget = budget.clone();
            async move { spend(&budget, 1).await }
        })
    };
    budget.acquire(Lane::Foreground).await.ok().unwrap().report(&Outcome::Pause(None));
    assert!(spend(&budget, 1).await <= Duration::from_secs(1), "one was left");
    let waiting = wait(&budget);
    tokio::task::yield_now().await;
    for _ in 0..FAILURES {
        budget.shared.lock().dead(&REFUSED, false);
    }
    let refused = tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
    assert!(refused.is_err(), "it was not let through to a dead server");
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_left_alone_ever_longer_and_one_probe_finds_it_back() {
    let (_budgets, budget) = budget(6000);
    fail(&budget).await;
    fail(&budget).await;
    assert!(refusal(&budget).await.is_none(), "two failures are bad luck");
    fail(&budget).await;
    for rest in [1, 2, 4, 8, 16, 32, 60, 60] {
        let refused = refusal(&budget).await.unwrap();
        assert_eq!(refused.kind, REFUSED);
        let range = Duration::from_secs(rest).mul_f64(0.9)..=Duration::from_secs(rest);
        assert!(range.contains(&refused.left), "{refused:?} is not about {rest} s");
        tokio::time::advance(refused.left).await;
        let probe = budget.acquire(Lane::Foreground).await.ok().unwrap();
        let refused = refusal(&budget).await.expect("one probe at a time");
        assert!(refused.left >= FIRST_REST, "nobody spins meanwhile");
        probe.report(&Outcome::Dead(REFUSED, "unreachable"));
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    let mut recoveries = budget.recoveries();
    assert_eq!(spend(&budget, 1).await, Duration::ZERO);
    assert_eq!(spend(&budget, 5).await, Duration::ZERO, "and all others pass");
    assert!(recoveries.has_changed().unwrap());
    recoveries.mark_unchanged();
    spend(&budget, 1).await;
    assert!(!recoveries.has_changed().unwrap(), "an answer of a server that lives is no news");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_lets_the_next_one_try_and_late_failures_change_nothing() {
    let (_budgets, budget) = budget(6000);
    let late = budget.acquire(Lane::Foreground).await.ok().unwrap();
    for _ in 0..FAILURES {
        fail(&budget).await;
    }
    let left = refusal(&budget).await.unwrap().left;
    late.report(&Outcome::Dead(REFUSED, "unreachable"));
    assert_eq!(refusal(&budget).await.unwrap().left, left);
    tokio::time::advance(left).await;
    drop(budget.acquire(Lane::Foreground).await.ok().unwrap());
    let again = refusal(&budget).await.expect("a rest as long as before").left;
    tokio::time::advance(again).await;
    assert_eq!(spend(&budget, 1).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_says_something_of_the_one_who_asks_moves_the_others_in_no_way() {
    let (_budgets, budget) = budget(6000);
    let aside = async || budget.acquire(Lane::Foreground).await.ok().unwrap().report(&Outcome::Aside("unreachable"));
    for _ in 0..FAILURES {
        aside().await;
        fail(&budget).await;
    }
    let left = refusal(&budget).await.expect("it neither counts as a failure nor as an answer in between").left;
    tokio::time::advance(left).await;
    aside().await;
    assert!(refusal(&budget).await.is_some(), "the probe has learned nothing");
}

#[tokio::test(start_paused = true)]
async fn the_shortest_interval_of_all_limits_how_long_a_server_is_left_alone() {
    let budgets = Budgets::default();
    let budget = budgets.budget(&url("http://prefect:4200/api"), limits(6000, Duration::from_secs(3)));
    for _ in 0..FAILURES {
        fail(&budget).await;
    }
    for _ in 0..5 {
        let left = refusal(&budget).await.unwrap().left;
        assert!(left <= Duration::from_secs(3), "{left:?}");
        tokio::time::advance(left).await;
        fail(&budget).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_an_error_shows_that_the_server_lives() {
    let (_budgets, budget) = budget(6000);
    for _ in 0..10 {
        fail(&budget).await;
        fail(&budget).await;
        budget.acquire(Lane::Foreground).await.ok().unwrap().report(&Outcome::Answered("unauthorized"));
    }
    assert!(refusal(&budget).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_takes_no_place_from_those_who_wait() {
    let (_budgets, budget) = budget(6000);
    let mut held = Vec::new();
    for _ in 0..BACKGROUND {
        held.push(budget.acquire(Lane::Background).await.ok().unwrap());
    }
    let third = budget.acquire(Lane::Background);
    assert!(tokio::time::timeout(Duration::from_secs(5), third).await.is_err(), "background work waits");
    assert_eq!(spend(&budget, 3).await, Duration::ZERO);
    held.pop();
    assert!(budget.acquire(Lane::Background).await.is_ok());
}

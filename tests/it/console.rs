//! The operator's console, used as a person does: with a browser of their own, on a phone and on a desk.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::StatusCode;
use reqwest::header::COOKIE;
use serde_json::{Value, json};
use tabproxy::access::password;
use tabproxy::practice::{Check, Practice, PracticeArgs, answer_text};

use crate::devtools::DevTools;
use crate::doors::{PASSWORD, come_in, state};
use crate::operator::{Operator, Page};
use crate::program::Program;
use crate::rig::{PATIENCE, code_of, until};
use crate::shared::procfs::{Process, command_line, processes};

const PHONE: (u32, u32) = (390, 844);
const DESK: (u32, u32) = (1100, 900);

/// The program with an admin password, in front of this site.
async fn program(site: &Practice) -> Program {
    let hash = password::hash(PASSWORD).unwrap();
    Program::start(site, &[("TABPROXY_ADMIN_PASSWORD", &hash)]).await
}

/// A second hand on the proxy's browser, for what a person would see with their eyes.
async fn eyes(program: &Program) -> DevTools {
    DevTools::of(program.browser().unwrap()).await
}

/// Where an element of the site's page is, in parts of the page's width and height.
async fn place_of(eyes: &mut DevTools, site: &Practice, selector: &str) -> (f64, f64) {
    let expression = format!(
        "(() => {{ const it = document.querySelector({}); if (!it?.checkVisibility()) return null; \
         const b = it.getBoundingClientRect(); \
         return [(b.x + b.width / 2) / innerWidth, (b.y + b.height / 2) / innerHeight]; }})()",
        json!(selector)
    );
    let place = until(async || eyes.eval(&site.home_url(), &expression).await, Value::is_array).await;
    (place[0].as_f64().unwrap(), place[1].as_f64().unwrap())
}

async fn frames(page: &mut Page) -> u64 {
    page.eval("Number(document.getElementById('screen').dataset.frames ?? 0)").await.as_u64().unwrap()
}

/// Writes a name into the site's form through the live view, by keyboard and by input method.
async fn write_name(page: &mut Page, eyes: &mut DevTools, site: &Practice, by_finger: bool) {
    let name = place_of(eyes, site, "#name").await;
    page.touch_screen(name, by_finger).await;
    see(eyes, site, "document.activeElement.id", "name").await;
    if by_finger {
        page.click("#keyboard").await;
    }
    page.press("End", 35).await;
    page.type_keys(" Lee").await;
    page.insert("李").await;
    see(eyes, site, "document.querySelector('#name').value", "Practice Person Lee李").await;
}

/// Waits until the site's page is so.
async fn see(eyes: &mut DevTools, site: &Practice, expression: &str, expected: &str) {
    until(async || eyes.eval(&site.home_url(), expression).await, |it| it == expected).await;
}

/// Waits for another picture.
async fn more(page: &mut Page) {
    let now = frames(page).await;
    page.until(&format!("Number(document.getElementById('screen').dataset.frames) > {now}")).await;
}

async fn wait_for_picture(page: &mut Page) {
    page.until("Number(document.getElementById('screen')?.dataset.frames ?? 0) > 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_phone_the_operator_signs_in_on_the_sites_wall_and_it_turns_ready_by_itself() {
    let site = Practice::start(PracticeArgs { sign_in: true, ..PracticeArgs::default() }).await.unwrap();
    let program = program(&site).await;
    let operator = Operator::start().await;
    let mut phone = operator.page(&program.url("/console"), PHONE, true).await;
    phone.until("document.getElementById('login')?.checkVisibility()").await;
    phone.picture("login").await;
    phone.sign_in("wrong horse").await;
    phone.until("document.getElementById('login-error').textContent.includes('wrong')").await;
    phone.eval("document.getElementById('password').value = ''").await;
    phone.sign_in(PASSWORD).await;
    phone.until("document.getElementById('pill').textContent === 'needs you'").await;
    phone.until("document.getElementById('go-live').checkVisibility()").await;
    phone.picture("needs-operator").await;
    phone.click("#go-live").await;
    wait_for_picture(&mut phone).await;
    phone.until("document.getElementById('live-status').textContent.includes('You drive')").await;
    phone.picture("sign-in-wall").await;

    let mut eyes = eyes(&program).await;
    write_name(&mut phone, &mut eyes, &site, true).await;
    more(&mut phone).await;
    phone.click("#zoom").await;
    phone.picture("typed").await;
    let button = place_of(&mut eyes, &site, "#sign-in").await;
    phone.touch_screen(button, true).await;
    phone.until("document.getElementById('pill').textContent === 'ready'").await;
    phone.picture("signed-in").await;
    let log = program.log();
    assert!(!log.contains("Lee") && !log.contains("horse"), "what is typed is never logged");
    assert!(log.contains("signed in"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_browsers_the_chosen_one_is_seen_and_driven() {
    let site = Practice::start(PracticeArgs { sign_in: true, ..PracticeArgs::default() }).await.unwrap();
    let hash = password::hash(PASSWORD).unwrap();
    let vars = [("TABPROXY_ADMIN_PASSWORD", hash.as_str()), ("TABPROXY_BROWSERS", "2")];
    let program = Program::start(&site, &vars).await;
    let operator = Operator::start().await;
    let mut desk = operator.page(&program.url("/console#live"), DESK, false).await;
    desk.until("document.getElementById('login')?.checkVisibility()").await;
    desk.sign_in(PASSWORD).await;
    let all = "[...document.getElementById('browser').options].map((it) => it.textContent).join()";
    desk.until(&format!("/^Browser 1: needs you.*Browser 2: needs you/.test({all})")).await;
    desk.until("document.getElementById('browser').checkVisibility()").await;
    let choose = "(() => { const it = document.getElementById('browser'); it.value = '2'; \
                  it.dispatchEvent(new Event('change')); })()";
    desk.eval(choose).await;
    wait_for_picture(&mut desk).await;
    let is_second = |it: &Process| {
        it.parent == program.pid() && command_line(it.pid).iter().any(|it| it.ends_with("profile-2"))
    };
    let second = processes().into_iter().find(is_second).unwrap();
    write_name(&mut desk, &mut DevTools::of(second.pid).await, &site, false).await;
    desk.picture("several").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_with_a_window_is_seen_and_driven_as_well() {
    // A display that nobody sees.
    let mut screen = Command::new("Xvfb");
    screen.args(["-displayfd", "1", "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]);
    let Ok(mut screen) = screen.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
        return eprintln!("not tested: there is no Xvfb");
    };
    let mut number = String::new();
    BufReader::new(screen.stdout.take().unwrap()).read_line(&mut number).unwrap();
    let display = format!(":{}", number.trim());
    let site = Practice::start(PracticeArgs { sign_in: true, ..PracticeArgs::default() }).await.unwrap();
    let hash = password::hash(PASSWORD).unwrap();
    let vars = [
        ("TABPROXY_ADMIN_PASSWORD", hash.as_str()),
        ("DISPLAY", &display),
        ("TABPROXY_HEADLESS", "false"),
        ("TABPROXY_DRAIN", "10m"),
    ];
    let mut program = Program::start(&site, &vars).await;
    let operator = Operator::start().await;
    let mut desk = operator.page(&program.url("/console#live"), DESK, false).await;
    desk.until("document.getElementById('login')?.checkVisibility()").await;
    desk.sign_in(PASSWORD).await;
    wait_for_picture(&mut desk).await;
    let mut eyes = eyes(&program).await;
    write_name(&mut desk, &mut eyes, &site, false).await;
    let button = place_of(&mut eyes, &site, "#sign-in").await;
    desk.touch_screen(button, false).await;
    desk.until("document.getElementById('pill').textContent === 'ready'").await;
    // Nobody waits for those who only look: the drain would be ten minutes.
    program.signal(rustix::process::Signal::TERM);
    assert!(program.ended().await.success());
    let _ = screen.kill();
    let _ = screen.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_wants_a_click_is_passed_by_the_one_who_drives() {
    let site =
        Practice::start(PracticeArgs { check: Check::Click, ..PracticeArgs::default() }).await.unwrap();
    let program = program(&site).await;
    let operator = Operator::start().await;
    let mut first = operator.page(&program.url("/console#live"), DESK, false).await;
    first.until("document.getElementById('login')?.checkVisibility()").await;
    first.sign_in(PASSWORD).await;
    wait_for_picture(&mut first).await;
    first
        .until_within("document.getElementById('pill').textContent === 'needs you'", Duration::from_secs(90))
        .await;
    // Another tab of the same person comes in without a password, and looks on.
    let mut second = operator.page(&program.url("/console#live"), DESK, false).await;
    wait_for_picture(&mut second).await;
    second.until("document.getElementById('live-status').textContent.includes('Somebody else')").await;
    let mut eyes = eyes(&program).await;
    let button = place_of(&mut eyes, &site, "#check-button").await;
    second.touch_screen(button, false).await;
    second.picture("looking-on").await;
    second.click("#take").await;
    second.until("document.getElementById('live-status').textContent.includes('You drive')").await;
    first.until("document.getElementById('live-status').textContent.includes('Somebody else')").await;
    let pill = first.eval("document.getElementById('pill').textContent").await;
    assert_eq!(pill, "needs you", "the click of one who looks on does nothing");
    second.picture("check").await;
    second.touch_screen(button, false).await;
    first.until("document.getElementById('pill').textContent === 'ready'").await;
    program.wait_ready().await;
    second.until("!document.getElementById('live-status').textContent.includes('no page')").await;
    second.picture("ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_watches_a_stream_stops_a_request_and_restarts_the_browser() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let program = program(&site).await;
    program.wait_ready().await;
    let operator = Operator::start().await;
    let mut desk = operator.page(&program.url("/console#try"), DESK, false).await;
    desk.until("document.getElementById('login')?.checkVisibility()").await;
    desk.sign_in(PASSWORD).await;

    let prompt = "Hello from the console count=15 interval=60";
    desk.click("#prompt").await;
    desk.insert(prompt).await;
    desk.click("#send").await;
    let said = json!(answer_text(prompt).trim());
    desk.until(&format!("document.querySelector('.theirs')?.textContent.trim() === {said}")).await;
    desk.until("document.getElementById('events').childElementCount >= 15").await;
    desk.until("!document.getElementById('send').disabled").await;
    desk.picture("try").await;
    assert_eq!(site.counters().posts_arrived, 1);

    // A request of somebody else, stopped in mid-stream.
    let mut running = program.ask("long", "hello count=100000 interval=50").await.bytes_stream();
    running.next().await.unwrap().unwrap();
    desk.click("[data-tab=now]").await;
    desk.until("document.querySelector('[data-stop]')").await;
    desk.until("document.getElementById('requests').textContent.includes('/backend-api/conversation')").await;
    desk.picture("now").await;
    desk.click("[data-stop]").await;
    let cut = async { while let Some(Ok(_)) = running.next().await {} };
    tokio::time::timeout(PATIENCE, cut).await.expect("cut at once");
    desk.until("!document.querySelector('[data-stop]')").await;
    crate::rig::eventually(|| site.counters().active, |it| *it == 0).await;

    // Nobody new, and again.
    desk.click_and_agree("[data-do=drain]").await;
    desk.until("document.getElementById('pill').textContent === 'nobody let in'").await;
    let refused = program.ask("refused", "hello").await;
    assert_eq!(
        (refused.status(), code_of(refused).await.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    );
    assert_eq!(program.get("/readyz").await.status(), 503);
    desk.click("[data-do=resume]").await;
    desk.until("document.getElementById('pill').textContent === 'ready'").await;
    assert_eq!(program.get("/readyz").await.status(), 200);

    // The browser, while somebody looks at it.
    desk.click("[data-tab=live]").await;
    wait_for_picture(&mut desk).await;
    let before = program.browser();
    desk.click("[data-tab=now]").await;
    desk.click_and_agree("[data-do=restart_browser]").await;
    crate::rig::eventually(|| program.browser(), |it| it.is_some() && *it != before).await;
    desk.until("document.getElementById('pill').textContent === 'ready'").await;
    desk.until("document.getElementById('timeline').textContent.includes('starting')").await;
    desk.picture("restarted").await;
    desk.click("[data-tab=log]").await;
    desk.until(
        "document.getElementById('lines').textContent.includes('the operator has the browser started')",
    )
    .await;
    desk.picture("log").await;
    desk.click("[data-tab=config]").await;
    desk.until("document.getElementById('config').textContent.includes('TABPROXY_ADMIN_PASSWORD')").await;
    let shown = desk.eval("document.getElementById('config').textContent").await;
    assert!(!shown.as_str().unwrap().contains("argon2"), "{shown}");
    desk.click("#language").await;
    desk.until("document.querySelector('[data-tab=live]').textContent === '实时画面'").await;
    desk.click("[data-tab=now]").await;
    desk.until("document.getElementById('pill').textContent === '就绪'").await;
    desk.until("[...document.querySelectorAll('#charts path')].some((it) => it.getAttribute('d'))").await;
    desk.picture("chinese").await;
    desk.click("#logout").await;
    desk.until("document.getElementById('login').checkVisibility()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_come_fast_enough_survive_another_browser_and_end_when_nobody_looks() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let program = program(&site).await;
    program.wait_ready().await;
    let (cookie, token) = come_in(&program).await;
    assert_eq!(state(&program, &cookie).await["captured"], 0, "nobody has looked");
    let operator = Operator::start().await;
    let mut desk = operator.page(&program.url("/console#live"), DESK, false).await;
    desk.until("document.getElementById('login')?.checkVisibility()").await;
    desk.sign_in(PASSWORD).await;
    wait_for_picture(&mut desk).await;
    const LIVELY: &str = "setInterval(() => { document.body.style.background = `hsl(${performance.now() / 20} 60% 60%)` }, 15), 1";
    assert_eq!(eyes(&program).await.eval(&site.home_url(), LIVELY).await, 1);
    // Ten, on a machine that is busy with other tests: the best second of many.
    let began = Instant::now();
    let mut best = 0;
    while best < 10 {
        let before = frames(&mut desk).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        best = best.max(frames(&mut desk).await - before);
        assert!(began.elapsed() < PATIENCE, "only {best} pictures a second");
    }
    println!("pictures a second: {best}");

    // A carrier can be looked at too, and then the site's page again.
    // Its page is empty, and the other's is not: a pixel tells which of them is seen.
    const PIXEL: &str = "document.getElementById('screen').getContext('2d').getImageData(9, 9, 1, 1).data";
    for (which, is_seen) in [
        ("carrier", format!("{PIXEL}.slice(0, 3).every((it) => it > 250)")),
        ("site", format!("{PIXEL}.slice(0, 3).some((it) => it < 250)")),
    ] {
        let choose = format!(
            "(() => {{ const it = document.getElementById('which'); it.value = '{which}'; it.dispatchEvent(new Event('change')) }})()"
        );
        desk.eval(&choose).await;
        desk.until(&is_seen).await;
    }

    // A question of the page, which stands still until it is answered.
    const ASK: &str = "setTimeout(() => { document.title = String(confirm('Is this <b>right</b>?')) }), 1";
    assert_eq!(eyes(&program).await.eval(&site.home_url(), ASK).await, 1);
    desk.until("document.getElementById('question-text').textContent === 'Is this <b>right</b>?'").await;
    desk.click("#yes").await;
    desk.until("document.getElementById('question').hidden").await;
    see(&mut eyes(&program).await, &site, "document.title", "true").await;

    // The page is loaded again, and then the whole browser goes: the view stays.
    desk.click("#reload").await;
    let mut site_eyes = eyes(&program).await;
    see(&mut site_eyes, &site, "document.title === 'true' ? 'before' : document.readyState", "complete")
        .await;
    assert_eq!(site_eyes.eval(&site.home_url(), LIVELY).await, 1);
    more(&mut desk).await;
    more(&mut desk).await;
    let before = program.browser().unwrap();
    crate::shared::procfs::signal(before, rustix::process::Signal::KILL);
    crate::rig::eventually(|| program.browser(), |it| it.is_some_and(|it| it != before)).await;
    program.wait_ready().await;
    assert_eq!(eyes(&program).await.eval(&site.home_url(), LIVELY).await, 1);
    more(&mut desk).await;
    more(&mut desk).await;

    // It is looked at no longer, however much it changes.
    desk.click("[data-tab=log]").await;
    until(async || state(&program, &cookie).await, |it| it["viewers"] == 0).await;
    let mut last = u64::MAX;
    let quiet = async {
        loop {
            let now = state(&program, &cookie).await["captured"].as_u64().unwrap();
            if now == last {
                return;
            }
            last = now;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, quiet).await.expect("the capture ends");
    desk.click("[data-tab=live]").await;
    more(&mut desk).await;
    assert!(state(&program, &cookie).await["captured"].as_u64().unwrap() > last);

    // Who is signed out sees nothing more.
    let out = program.client.post(program.url("/console/logout")).header(COOKIE, &cookie);
    assert_eq!(out.header("x-console-token", &token).send().await.unwrap().status(), 204);
    let gone =
        program.client.get(program.url("/console/api/state")).header(COOKIE, &cookie).send().await.unwrap();
    assert_eq!(gone.status(), 401);
}

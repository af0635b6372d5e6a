//! What the browser keeps for sites: its cookies, and the local storage of an origin.
//!
//! Cookies travel as the browser's own JSON: it may know more about them than this version does, and what
//! is set again must be what was read.

use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::dom_storage;
use chromiumoxide::types::MethodId;
use chromiumoxide::{Command, Method};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Link, LinkError, Tab};

/// A storage may hold 10 MB: reading or writing it may take a moment.
const WHOLE_STORAGE: Duration = Duration::from_secs(10);

/// A command whose parameters and answer stay JSON.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Plain {
    #[serde(skip)]
    method: &'static str,
    params: Value,
}

impl Method for Plain {
    fn identifier(&self) -> MethodId {
        self.method.into()
    }
}

impl Command for Plain {
    type Response = Value;
}

impl Link {
    /// All cookies of the profile, each in the form that [`Link::set_cookies`] takes.
    pub async fn cookies(&self) -> Result<Vec<Value>, LinkError> {
        let mut answer = self.plain("Storage.getCookies", json!({})).await?;
        let cookies = answer.get_mut("cookies").map(Value::take).unwrap_or_default();
        Ok(cookies.as_array().into_iter().flatten().map(settable).collect())
    }

    /// Sets cookies, beside those that are there; one that the browser refuses is left out. Returns how many
    /// were.
    pub async fn set_cookies(&self, cookies: &[Value]) -> Result<usize, LinkError> {
        // One refusal refuses all of a call: only then is each tried by itself.
        match self.plain("Storage.setCookies", json!({ "cookies": cookies })).await {
            Err(LinkError::Refused { .. }) => {}
            other => return other.map(|_| 0),
        }
        let mut refused = 0;
        for cookie in cookies {
            match self.plain("Storage.setCookies", json!({ "cookies": [cookie] })).await {
                Err(LinkError::Refused { .. }) => refused += 1,
                other => drop(other?),
            }
        }
        Ok(refused)
    }

    /// Forgets all cookies.
    pub async fn clear_cookies(&self) -> Result<(), LinkError> {
        self.plain("Storage.clearCookies", json!({})).await.map(drop)
    }

    /// Puts `items` into the local storage of `origin`, in place of what is there. Done in a tab of its own,
    /// so that the site's page finds it in place when it begins.
    pub async fn set_local_storage(&self, origin: &str, items: &[(String, String)]) -> Result<(), LinkError> {
        let items = serde_json::to_string(items).unwrap_or_default();
        let script = format!(
            "localStorage.clear(); for (const [key, value] of {items}) localStorage.setItem(key, value)"
        );
        self.in_own_page(origin, &script).await
    }

    /// Adds those of `items` to the local storage of `origin` that have no value there.
    pub async fn add_local_storage(&self, origin: &str, items: &[(String, String)]) -> Result<(), LinkError> {
        let items = serde_json::to_string(items).unwrap_or_default();
        let script = format!(
            "for (const [key, value] of {items}) if (localStorage.getItem(key) === null) \
             localStorage.setItem(key, value)"
        );
        self.in_own_page(origin, &script).await
    }

    async fn in_own_page(&self, origin: &str, script: &str) -> Result<(), LinkError> {
        let tab = self.background_tab().await?;
        let done = async {
            tab.open_own_page(origin, "").await?;
            tab.evaluate(script, WHOLE_STORAGE).await.map(drop)
        };
        let done = done.await;
        tab.close();
        done
    }

    async fn plain(&self, method: &'static str, params: Value) -> Result<Value, LinkError> {
        self.call(None, Plain { method, params }).await
    }
}

impl Tab {
    /// The local storage of `origin`, which this tab must show.
    pub async fn local_storage(&self, origin: &str) -> Result<Vec<(String, String)>, LinkError> {
        let mut storage = dom_storage::StorageId::new(true);
        storage.security_origin = Some(origin.to_owned());
        let items = self.call(dom_storage::GetDomStorageItemsParams::new(storage)).await?.entries;
        let pair = |item: dom_storage::Item| <[String; 2]>::try_from(item.inner().clone()).ok();
        Ok(items.into_iter().filter_map(pair).map(|[key, value]| (key, value)).collect())
    }
}

/// A cookie as it was read, in the form in which it is set. One without a leading dot in its domain belongs
/// to that host alone, which is said by an address in place of a domain.
fn settable(cookie: &Value) -> Value {
    let mut cookie = cookie.clone();
    let Some(fields) = cookie.as_object_mut() else { return cookie };
    fields.remove("size");
    fields.remove("partitionKeyOpaque");
    if fields.remove("session") == Some(Value::Bool(true)) {
        fields.remove("expires");
    }
    let host = fields.get("domain").and_then(Value::as_str).filter(|it| !it.starts_with('.'));
    if let Some(host) = host.map(str::to_owned) {
        let secure = fields.get("secure") == Some(&Value::Bool(true));
        let path = fields.get("path").and_then(Value::as_str).unwrap_or("/");
        let url = format!("{}://{host}{path}", if secure { "https" } else { "http" });
        fields.remove("domain");
        fields.insert("url".into(), url.into());
    }
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_set_for_whom_it_was_read() {
        let read = |domain: &str, session: bool| {
            json!({
                "name": "a", "value": "b", "domain": domain, "path": "/x", "expires": -1.0, "size": 2,
                "httpOnly": true, "secure": true, "session": session, "priority": "Medium",
            })
        };
        assert_eq!(
            settable(&read("chat.example", true)),
            json!({
                "name": "a", "value": "b", "url": "https://chat.example/x", "path": "/x",
                "httpOnly": true, "secure": true, "priority": "Medium",
            })
        );
        assert_eq!(
            settable(&read(".example", false)),
            json!({
                "name": "a", "value": "b", "domain": ".example", "path": "/x", "expires": -1.0,
                "httpOnly": true, "secure": true, "priority": "Medium",
            })
        );
    }
}

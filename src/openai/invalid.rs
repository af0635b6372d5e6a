//! Requests that cannot be served as they are, told as the official API tells it.

use super::ErrorBody;

/// What is wrong with a request: one sentence, the parameter and a stable word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    message: String,
    param: Option<String>,
    code: &'static str,
}

impl Invalid {
    /// A mistake in `param`.
    pub fn new(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Invalid {
        Invalid { message: message.into(), param: Some(param.into()), code }
    }

    /// What this proxy cannot do.
    pub fn unsupported(param: impl Into<String>, what: &str) -> Invalid {
        let message = format!("{what} not supported by this proxy: the site's chat answers in plain text.");
        Invalid::new("unsupported_parameter", param, message)
    }

    /// A parameter that must be there and is not.
    pub fn missing(param: &str) -> Invalid {
        Invalid::new("missing_required_parameter", param, format!("Missing required parameter: '{param}'."))
    }

    /// A model that there is none of.
    pub fn model(name: &str) -> Invalid {
        let name: String = name.chars().take(100).collect();
        Invalid::new("model_not_found", "model", format!("The model '{name}' does not exist here."))
    }

    /// What could not be read: JSON that is none, or a member of the wrong type, at `path`.
    pub fn unreadable(path: &str, error: &serde_json::Error) -> Invalid {
        let message: String = error.to_string().chars().take(300).collect();
        // Where in the text says little beside the path.
        let message = message.rsplit_once(" at line ").map_or(&*message, |(before, _)| before);
        if !error.is_data() {
            let message = format!("We could not parse the JSON body of your request: {message}.");
            return Invalid { message, param: None, code: "invalid_json" };
        }
        let is_type = message.starts_with("invalid type");
        let (code, what) = if is_type { ("invalid_type", "type") } else { ("invalid_value", "value") };
        if path == "." {
            return Invalid {
                message: format!("The request is no JSON object: {message}."),
                param: None,
                code,
            };
        }
        Invalid::new(code, path, format!("Invalid {what} for '{path}': {message}."))
    }

    /// The stable word.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The parameter; it names no value.
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// In the API's shape.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            message: self.message.clone(),
            kind: "invalid_request_error",
            param: self.param.clone(),
            code: Some(self.code.to_owned()),
        }
    }
}

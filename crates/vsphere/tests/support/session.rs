//! What a scripted source answers before anything is collected, whatever it has.

/// The content of the answer to a call that makes a session, or what collecting goes by in it; `None` for any other.
pub fn answer(method: &str) -> Option<&'static str> {
    Some(match method {
        "RetrieveServiceContent" => {
            "<returnval><rootFolder type=\"Folder\">group-d1</rootFolder>\
             <propertyCollector type=\"PropertyCollector\">pc</propertyCollector>\
             <viewManager type=\"ViewManager\">views</viewManager><about><fullName>Scripted</fullName>\
             <apiVersion>8.0.2.0</apiVersion><apiType>HostAgent</apiType></about>\
             <sessionManager type=\"SessionManager\">sessions</sessionManager></returnval>"
        }
        "Login" => "<returnval><key>k</key></returnval>",
        "CreateContainerView" => "<returnval type=\"ContainerView\">view</returnval>",
        "CreatePropertyCollector" => "<returnval type=\"PropertyCollector\">mine</returnval>",
        "CreateFilter" => "<returnval type=\"PropertyFilter\">f</returnval>",
        _ => return None,
    })
}

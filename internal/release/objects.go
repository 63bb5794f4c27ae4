package release

// Objects are the names of everything that a rollback needs, as they were when a release started: with them it needs
// no manifests. Written by `canary`; nil in the ledgers of earlier versions.
type Objects struct {
	Namespace       string                      `json:"namespace"` // of Service, Deployments, ledger and lock
	Service         string                      `json:"service"`
	ServiceSelector map[string]string           `json:"serviceSelector"`
	Deployments     map[Track]string            `json:"deployments"`
	Selectors       map[Track]map[string]string `json:"selectors"` // of the Deployments
	Container       string                      `json:"container"` // that runs the app
	DestinationRule ObjectName                  `json:"destinationRule,omitzero"`
	Host            string                      `json:"host,omitempty"` // that the DestinationRule is for
	VirtualService  ObjectName                  `json:"virtualService,omitzero"`

	// Route is the HTTPRoute or GRPCRoute that leads to the tracks, and TrackServices are their Services: then there is no
	// DestinationRule and no VirtualService. Nil: it is these that do.
	Route         *RouteName       `json:"route,omitempty"`
	TrackServices map[Track]string `json:"trackServices,omitempty"`
}

// RouteName is a route of the Gateway API in the app's namespace.
type RouteName struct {
	Kind string `json:"kind"` // HTTPRoute or GRPCRoute
	Name string `json:"name"`
}

// ObjectName is an object's name and namespace. An empty namespace is that of the app.
type ObjectName struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

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
	DestinationRule ObjectName                  `json:"destinationRule"`
	Host            string                      `json:"host"` // that the DestinationRule is for
	VirtualService  ObjectName                  `json:"virtualService"`
}

// ObjectName is an object's name and namespace. An empty namespace is that of the app.
type ObjectName struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

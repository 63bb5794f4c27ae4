package pipelinefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// decodeDocuments reads the YAML documents of a file, without empty ones.
func decodeDocuments(data []byte) ([]*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var documents []*yaml.Node
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not YAML: %w", err)
		}
		if len(document.Content) == 1 {
			documents = append(documents, document.Content[0])
		}
	}
}

// reference is a !reference [job, key …] that is not resolved yet.
type reference []string

// deepest bounds extends, !reference and nesting, against files that refer to themselves.
const deepest = 50

// decode turns a node into maps, lists, texts and booleans.
func decode(node *yaml.Node, depth int) (any, error) {
	if depth > deepest {
		return nil, fmt.Errorf("line %d: nested too deeply", node.Line)
	}
	switch node.Kind {
	case yaml.AliasNode:
		return decode(node.Alias, depth+1)
	case yaml.SequenceNode:
		list := make([]any, 0, len(node.Content))
		for _, item := range node.Content {
			value, err := decode(item, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		if node.Tag == "!reference" {
			return reference(stringsIn(list)), nil
		}
		return list, nil
	case yaml.MappingNode:
		return decodeMap(node, depth)
	default:
		if node.Tag == "!!null" {
			return nil, nil
		}
		if node.Tag == "!!bool" {
			var value bool
			err := node.Decode(&value)
			return value, err
		}
		return node.Value, nil
	}
}

// decodeMap decodes a mapping, with what is merged into it.
func decodeMap(node *yaml.Node, depth int) (any, error) {
	found := map[string]any{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		value, err := decode(node.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		if key := node.Content[i]; key.Tag != "!!merge" {
			found[key.Value] = value
			continue
		}
		merged, ok := value.([]any)
		if !ok {
			merged = []any{value}
		}
		for _, item := range merged {
			from, _ := item.(map[string]any)
			for key, value := range from {
				if _, has := found[key]; !has {
					found[key] = value
				}
			}
		}
	}
	// A key written in the map itself wins over a merged one, wherever it stands.
	for i := 0; i+1 < len(node.Content); i += 2 {
		if key := node.Content[i]; key.Tag != "!!merge" {
			value, err := decode(node.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			found[key.Value] = value
		}
	}
	return found, nil
}

// stringsIn are the texts in a list and in the lists in it.
func stringsIn(list []any) []string {
	var found []string
	for _, item := range list {
		switch item := item.(type) {
		case string:
			found = append(found, item)
		case []any:
			found = append(found, stringsIn(item)...)
		}
	}
	return found
}

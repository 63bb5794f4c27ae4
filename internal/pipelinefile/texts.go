package pipelinefile

// Texts are the texts of one of the job's keywords, with everything that is inherited filled in: one of a scalar, all of a list
// and of the lists in it. The keys lead to a keyword inside of others: "artifacts", "paths".
func (j *Job) Texts(keyword ...string) []string { return j.keyword(keyword).texts() }

// Keys are the keys of one of the job's keywords, in their order.
func (j *Job) Keys(keyword ...string) []string { return j.keyword(keyword).keysOf() }

func (j *Job) keyword(keys []string) *yamlValue {
	v := j.values
	for _, key := range keys {
		v = v.get(key)
	}
	return v
}
